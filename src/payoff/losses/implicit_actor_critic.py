"""Policy learning as classification: log-ratios to the policy that acted are the logits of being right, within each group."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from payoff.catalogue import method
from payoff.pipeline import Evaluation, LossOutput
from payoff.sets import sets
from payoff.trajectories import Channel, Trajectories, at_start


@method("pacs", kind="loss", paper="arXiv:2509.02522", needs=("old",), sees="group")
def implicit_actor_critic(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    scale: float = 1.0,
    score: Literal["leave-one-out", "standardised", "own"] = "leave-one-out",
    measure: Literal["log-ratio", "mean-log-ratio", "mean-log-likelihood"] = "log-ratio",
    balanced: bool = True,
) -> LossOutput:
    """Cross-entropy between an outcome and how far the policy raised its rollout above the others of the start (PACS).

    s = scale sum_t (log pi - log old), psi = s - mean_{others} s ("leave-one-out"), term = w BCE(psi, R), at every own action of
    the rollout: aggregate by the sequence mean, which makes it one term each. Nothing is constant but old: dterm = w (sigmoid(psi)
    - R) dpsi, where psi has a gradient in all members of the group. sigmoid(psi) plays the critic.

    score:   "own": psi = s. "standardised": psi = (s - mean s) / (std s + 1e-6), divisor n - 1, with a gradient through the spread
             too; where all s are equal, psi = s - mean s, which is 0. Close to the old policy it blows every small difference of
             log-ratios up to unit size, so it goes with "mean-log-likelihood"; and sigmoid(psi) is bounded away from 0 and 1 in
             small groups
    measure: "mean-log-ratio": s = scale mean_t (log pi - log old), which does not grow with length. "mean-log-likelihood": s =
             scale mean_t log pi, the program's other one: psi is not 0 on policy, and old plays no part

    On policy psi = 0 and the residual is 1/2 - R, whatever the pass rate r. In a group of n the gradient is then that of
    `leave_one_out` times scale, and balanced that divided by 4 r (1 - r): the same direction for every n, with more weight for
    starts that are nearly always or nearly never right. A group all right or all wrong gives exactly nothing.

    The target is the outcome, 0 or 1 (credit `total`). Groups must stay whole. A rollout without verdict is in no mean and has no
    term; one alone has psi = 0 and no gradient.
    balanced: w = n / (2 (number with the same outcome)), 1 where there is only one outcome in the group
    scale:    the paper's beta. A sum grows with length, and sigmoid saturates: smaller for longer rollouts, or a mean

    Metrics: accuracy, the share of rollouts with psi > 0 where R = 1 and psi < 0 where R = 0; residual, mean |R - sigmoid(psi)|.
    Raises ValueError without traj.logp["old"], for scale <= 0, an unknown score or measure, and outcomes other than 0 and 1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> target = Channel(torch.tensor([[1.0], [0.0], [1.0], [1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> implicit_actor_critic(Evaluation(traj.logp["old"], {}), traj, target).terms
    tensor([[0.6931, 0.6931, 0.6931],
            [0.6931, 0.6931, 0.0000],
            [0.6931, 0.6931, 0.6931],
            [0.6931, 0.0000, 0.0000]])
    """
    if "old" not in traj.logp:
        raise ValueError('pacs: needs traj.logp["old"], the log-probabilities of the policy that acted')
    if not scale > 0:
        raise ValueError(f"pacs: scale must be > 0, got {scale}")
    if score not in ("leave-one-out", "standardised", "own"):
        raise ValueError(f'pacs: score must be "leave-one-out", "standardised" or "own", got {score!r}')
    if measure not in ("log-ratio", "mean-log-ratio", "mean-log-likelihood"):
        raise ValueError(f'pacs: measure must be "log-ratio", "mean-log-ratio" or "mean-log-likelihood", got {measure!r}')
    right, known = at_start(target, traj)
    known = known & traj.own.any(1)
    if (known & (right != 0) & (right != 1)).any():
        raise ValueError("pacs: the target must be an outcome of 0 or 1")
    likely = torch.where(traj.own, evaluation.logp, 0)
    each = likely if measure == "mean-log-likelihood" else likely - torch.where(traj.own, traj.logp["old"], 0)
    # What is divided by its own spread is summed in float64, so that equal means stay equal whatever their lengths.
    ratio = each.sum(1, dtype=torch.float64 if score == "standardised" else None)
    if measure != "log-ratio":
        ratio = ratio / traj.own.sum(1).clamp(min=1)
    raised = torch.where(known, scale * ratio, 0)
    members = sets(traj, "group")[:, 0].unique(return_inverse=True)[1]
    psi = raised
    if score != "own":
        psi = (_above_others if score == "leave-one-out" else _standardised)(raised, known, members).to(each.dtype)
    term = binary_cross_entropy_with_logits(psi, right.to(psi.dtype), reduction="none")
    if balanced:
        term = term * _class_weight(right, known, members).to(term.dtype)
    counts = traj.own & known[:, None]
    share = known.sum().clamp(min=1)
    correct = float((known & (torch.where(right > 0, psi, -psi) > 0)).sum() / share)
    residual = float(torch.where(known, (right - psi.detach().sigmoid()).abs(), 0).sum() / share)
    return LossOutput(torch.where(counts, term[:, None], 0), {"accuracy": correct, "residual": residual})


def _above_others(x: Float[Tensor, " N"], known: Bool[Tensor, " N"], members: Tensor) -> Float[Tensor, " N"]:
    """x minus the mean of the other known members of its set, differentiable in all of them; 0 where there is no other."""
    size = _sums(known.to(x.dtype), members)
    others = (size - known.to(x.dtype)).clamp(min=0)
    mean = (_sums(x, members) - x) / others.clamp(min=1)
    return torch.where(known & (others > 0), x - mean, 0)


def _standardised(x: Float[Tensor, " N"], known: Bool[Tensor, " N"], members: Tensor) -> Float[Tensor, " N"]:
    """x minus the mean of the known of its set, over their spread; differentiable in all of them, 0 for one alone."""
    size = _sums(known.to(x.dtype), members)
    # Distances from the greatest: equal ones are at distance 0 exactly, and not at one of rounding, which would be scaled up.
    greatest = torch.full_like(size, -torch.inf).scatter_reduce(0, members, torch.where(known, x.detach(), -torch.inf), "amax")
    x = torch.where(known, x - torch.where(known, greatest[members], 0), 0)
    away = torch.where(known & (size > 1), x - _sums(x, members) / size.clamp(min=1), 0)
    variance = _sums(away.square(), members) / (size - 1).clamp(min=1)
    # The square root has no slope at 0, and the slope of what the other branch gives must not be asked for.
    some = variance > 0
    return away / torch.where(some, torch.where(some, variance, 1).sqrt() + 1e-6, 1)


def _class_weight(right: Float[Tensor, " N"], known: Bool[Tensor, " N"], members: Tensor) -> Float[Tensor, " N"]:
    size, hits = _sums(known.double(), members), _sums((known & (right > 0)).double(), members)
    own_class = torch.where(right > 0, hits, size - hits)
    mixed = known & (hits > 0) & (hits < size)
    return torch.where(mixed, size / (2 * own_class.clamp(min=1)), 1)


def _sums(x: Float[Tensor, " N"], members: Tensor) -> Float[Tensor, " N"]:
    """The sum over the set of each entry."""
    return x.new_zeros(int(members.max()) + 1 if len(members) else 1).index_add(0, members, x)[members]
