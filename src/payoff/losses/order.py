"""Losses that read only which of two objects is better, not by how much: order-preserving GFlowNets."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import softplus

from payoff.catalogue import method
from payoff.losses.balance import log_score
from payoff.pipeline import Evaluation, LossOutput
from payoff.sets import Over, sets
from payoff.trajectories import Channel, StopReason, Trajectories, outcome


@method("op-gfn", kind="loss", paper="arXiv:2310.00386", sees="group")
def order_preserving(evaluation: Evaluation, traj: Trajectories, target: Channel, *, over: Over = "group") -> LossOutput:
    """Learn the log-reward from an order: cross-entropy of score_i - score_j with who is better (OP-GFN with TB, eq. 8).

    score_i = sum_t log pi - log P_B is the log-reward the sampler now has for the object, up to log Z, which cancels. Of all other
    members j of the set: term_i = mean_j softplus(score_i - score_j) - y_ij (score_i - score_j), y = 1 where the outcome of i is
    the greater, 1/2 where they are equal (exactly; the paper pairs members at random, this is its expectation).
    Any strictly increasing map of the reward changes nothing. The loss has no minimum: scores draw apart as long as it is trained,
    so stop or temper.

    [N, 1]. No term for a trajectory that was truncated or has an unknown payment, nor for one alone. Compares all pairs of the
    batch: memory N^2. Metric agreement: the share of unequal pairs that the scores order rightly, a tie
    of scores counting half.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers()
    >>> reward = place_outcome(torch.tensor([1.0, 0.0, 5.0, 5.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> order_preserving(Evaluation(traj.logp["old"], {}), traj, reward).terms.T
    tensor([[1.3133, 1.3133, 1.1269, 1.1269]])
    """
    score = log_score(evaluation, traj)
    value, counts = _known(traj, target)
    pairs = _pairs("order_preserving", traj, counts, over)
    apart = torch.where(pairs, score[:, None] - score, 0)
    better = (value[:, None] > value).to(score.dtype) + (value[:, None] == value).to(score.dtype) / 2
    terms = torch.where(pairs, softplus(apart) - better * apart, 0).sum(1) / pairs.sum(1).clamp(min=1)
    unequal = pairs & (better != 0.5)
    agree = (unequal & ((apart.detach() > 0) == (better > 0.5))).sum() / unequal.sum().clamp(min=1)
    return LossOutput(terms[:, None], {"agreement": float(agree)})


@method("op-gfn-listwise", kind="loss", paper="arXiv:2310.00386", sees="group")
def order_preserving_list(evaluation: Evaluation, traj: Trajectories, target: Channel, *, over: Over = "group") -> LossOutput:
    """Raise the best of a set together: -sum_i z_i / (sum z) log softmax(score)_i over the set (OP-GFN, eq. 11).

    score_i = sum_t log pi - log P_B; z_i >= 0 the target's outcome: 1 for the members of the front and 0 for the others, as
    `non-dominated` gives them from several rewards. Labels of one batch may contradict those of another.

    [N, 1]: a member's part of its set's loss, times the members of the set, so that the mean over trajectories is the mean over
    sets weighed by their size. A set without any label above 0 has no term. Raises ValueError for a negative label.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers()
    >>> labels = place_outcome(torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> order_preserving_list(Evaluation(traj.logp["old"], {}), traj, labels).terms.T
    tensor([[2.6265, 0.0000, 2.1269, 0.1269]])
    """
    score = log_score(evaluation, traj)
    label, counts = _known(traj, target)
    if bool((label[counts] < 0).any()):
        raise ValueError(f"order_preserving_list: labels must be at least 0, got {float(label[counts].min())}")
    member = _pairs("order_preserving_list", traj, counts, over) | torch.diag(counts)
    total = torch.where(counts, torch.where(member, score, -torch.inf).logsumexp(1), 0) if len(traj) else score
    share = torch.where(counts, label, 0) / torch.where(member, label, 0).sum(1).clamp(min=torch.finfo(label.dtype).tiny)
    terms = torch.where(counts, -share.to(score.dtype) * (score - total) * member.sum(1), 0)
    return LossOutput(terms[:, None], {})


def _known(traj: Trajectories, target: Channel) -> tuple[Tensor, Bool[Tensor, " N"]]:
    """The outcome of each trajectory, and whether it takes part: finished, acted and known."""
    value, valid = outcome(target, traj)
    return value, valid & traj.own.any(1) & (traj.stop != StopReason.truncated)


def _pairs(name: str, traj: Trajectories, counts: Bool[Tensor, " N"], over: Over) -> Bool[Tensor, "N N"]:
    """Which two different trajectories are compared."""
    key = sets(traj, over)
    if key.shape[1] != 1:
        raise ValueError(f'{name}: over must be a set of whole trajectories, got "{over}"')
    same = (key == key.T) & counts[:, None] & counts
    return same & ~torch.eye(len(traj), dtype=torch.bool, device=traj.device)
