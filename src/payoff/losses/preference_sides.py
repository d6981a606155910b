"""Losses that judge each side of a preference by itself: log-ratios pushed up for what is wanted, down for what is not.

s = sum_t (log pi - log pi_ref)(a_t) of a rollout. On pairs (terms [P], `pair-mean`) and, in `kto`, on rollouts with a label and no
partner (terms [N, 1], `sequence-mean-token-mean`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import softplus

from payoff.catalogue import method
from payoff.losses.preference_links import check_positive, compare, sequence_score
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Pairs, Trajectories, at_start


@method("kto", kind="loss", paper="arXiv:2402.01306", needs=("ref",), sees="batch")
def kto(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    beta: float = 0.1,
    desirable: float = 1.0,
    undesirable: float = 1.0,
    threshold: float = 0.5,
    reference_point: Literal["estimated", "zero"] = "estimated",
) -> LossOutput:
    """Learn from single rollouts called good or bad, without pairs (KTO): weight sigmoid(+-beta (z - s)).

    s = sum_t (log pi - log pi_ref)(a_t); the sign is + where the rollout's label (the target at its first action) is above
    `threshold`, - elsewhere. z = max(0, estimate of KL(pi, ref)), without gradient: what a rollout is compared with. It is the mean
    of s over rollouts marked in traj.extras["mismatched"] (a prompt with another one's response, as published; the sampler
    `recorded` adds them), or, where nothing is marked, over all rollouts, which is the KL itself when the policy sampled them.

    desirable, undesirable: weights; as many of one kind as of the other is best, or weights that make up for it
    reference_point:        "zero" takes z = 0 (TRL's apo_zero_unpaired), and then a rollout needs no others
    A rollout without label, marked, or without actions has no term. z is of what is handed in, so minibatches change it.
    Metrics: reference_point (z), desirable and undesirable (mean s), where there are any. Raises ValueError unless beta > 0 and the
    weights are >= 0, or without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> label = Channel(torch.tensor([[1.0], [0.0], [1.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> traj = four_answers()  # s is 1.5, 1, 1.5 and 0.5, so z is 1.125
    >>> kto(Evaluation(traj.logp["old"], {}), traj, label, beta=1.0).terms[:, 0]
    tensor([0.4073, 0.4688, 0.4073, 0.3486])
    """
    check_positive("kto", beta=beta)
    if not min(desirable, undesirable) >= 0:
        raise ValueError(f"kto: desirable and undesirable must be >= 0, got {desirable} and {undesirable}")
    if reference_point not in ("estimated", "zero"):
        raise ValueError(f'kto: reference_point must be "estimated" or "zero", got {reference_point!r}')
    label, known = at_start(target, traj)
    score = sequence_score("kto", evaluation, traj, {"ref": 1.0})
    acted = traj.own.any(1)
    marked = traj.extras.get("mismatched")
    if marked is not None:
        known = known & ~marked.bool()
    known = known & acted
    middle = score.new_zeros(())
    if reference_point == "estimated":
        sample = acted if marked is None else acted & marked.bool()
        middle = (torch.where(sample, score.detach(), 0).double().sum() / sample.sum().clamp(min=1)).clamp(min=0).to(score.dtype)
    good = label > threshold
    away = torch.sigmoid(torch.where(good, beta, -beta).to(score.dtype) * (middle - score))
    terms = torch.where(known, torch.where(good, desirable, undesirable).to(score.dtype) * away, 0)
    metrics = {"reference_point": float(middle)}
    for name, rows in (("desirable", known & good), ("undesirable", known & ~good)):
        if rows.any():
            metrics[name] = float(score.detach()[rows].double().mean())
    return LossOutput(terms[:, None], metrics)


@method("nca-pair", kind="loss", paper="arXiv:2402.05369", needs=("ref",), sees="group")
def nca_pair(evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, beta: float = 0.1) -> LossOutput:
    """Optimise the likelihood of each side, not their difference (NCA for pairs): with l(x) = -log sigmoid(x),

    l(beta s_winner) + l(-beta s_winner) / 2 + l(-beta s_loser) / 2. The winner's log-ratio has an optimum of its own, at
    beta s = log 2, where the winner cannot lose likelihood as it can under DPO.
    Metrics as of `dpo`. Raises ValueError unless beta > 0, or without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> nca_pair(Evaluation(traj.logp["old"], {}), traj, pairs, beta=1.0).terms
    tensor([1.7088, 1.5392])
    """
    check_positive("nca_pair", beta=beta)

    def link(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return softplus(-beta * a) + (softplus(beta * a) + softplus(beta * b)) / 2

    return compare(link, sequence_score("nca_pair", evaluation, traj, {"ref": 1.0}), pairs)


@method("bco-pair", kind="loss", paper="arXiv:2404.04656", needs=("ref",), sees="group")
def bco_pair(evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, beta: float = 0.1) -> LossOutput:
    """Tell winners from losers one by one, as a classifier does: -log sigmoid(beta s_winner) - log sigmoid(-beta s_loser) (BCO).

    An upper bound of DPO's loss. The paper's shift of the scores by a running mean is left out, as TRL does for pairs.
    Metrics as of `dpo`. Raises ValueError unless beta > 0, or without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> bco_pair(Evaluation(traj.logp["old"], {}), traj, pairs, beta=1.0).terms
    tensor([1.5147, 1.1755])
    """
    check_positive("bco_pair", beta=beta)
    score = sequence_score("bco_pair", evaluation, traj, {"ref": 1.0})
    return compare(lambda a, b: softplus(-beta * a) + softplus(beta * b), score, pairs)


@method("sppo-hard", kind="loss", paper="arXiv:2405.00675", needs=("ref",), sees="group")
def sppo_hard(evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, beta: float = 0.1) -> LossOutput:
    """Bring each side to its place: (s_winner - 1 / (2 beta))^2 + (s_loser + 1 / (2 beta))^2 (SPPO with win rates 1 and 0).

    The winner rises by itself and the loser falls by itself, so that the winner's likelihood does not drop with the loser's.
    With estimated win rates instead of hard labels: `gpo`, on rollouts. Metrics as of `dpo`. Raises ValueError unless beta > 0, or
    without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> sppo_hard(Evaluation(traj.logp["old"], {}), traj, pairs, beta=0.5).terms
    tensor([4.2500, 2.5000])
    """
    check_positive("sppo_hard", beta=beta)
    place = 1 / (2 * beta)
    score = sequence_score("sppo_hard", evaluation, traj, {"ref": 1.0})
    return compare(lambda a, b: (a - place).square() + (b + place).square(), score, pairs)


@method("apo-zero", kind="loss", paper="arXiv:2408.06266", needs=("ref",), sees="group")
def apo_zero(evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, beta: float = 0.1) -> LossOutput:
    """Raise winners and lower losers, both against the reference: 1 - sigmoid(beta s_winner) + sigmoid(beta s_loser) (APO, eq. 7).

    For winners that are better than what the policy writes by itself; else `apo-down`. Bounded: a pair far off has no gradient.
    Metrics as of `dpo`. Raises ValueError unless beta > 0, or without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> apo_zero(Evaluation(traj.logp["old"], {}), traj, pairs, beta=1.0).terms
    tensor([0.9135, 0.8049])
    """
    check_positive("apo_zero", beta=beta)
    score = sequence_score("apo_zero", evaluation, traj, {"ref": 1.0})
    return compare(lambda a, b: torch.sigmoid(-beta * a) + torch.sigmoid(beta * b), score, pairs)


@method("apo-down", kind="loss", paper="arXiv:2408.06266", needs=("ref",), sees="group")
def apo_down(evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, beta: float = 0.1) -> LossOutput:
    """Lower both sides, the loser more: sigmoid(beta s_winner) + 1 - sigmoid(beta (s_winner - s_loser)) (APO, eq. 8).

    For winners that are worse than what the policy writes by itself. Metrics as of `dpo`. Raises ValueError unless beta > 0, or
    without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> apo_down(Evaluation(traj.logp["old"], {}), traj, pairs, beta=1.0).terms
    tensor([1.1951, 1.0865])
    """
    check_positive("apo_down", beta=beta)
    score = sequence_score("apo_down", evaluation, traj, {"ref": 1.0})
    return compare(lambda a, b: torch.sigmoid(beta * a) + torch.sigmoid(-beta * (a - b)), score, pairs)
