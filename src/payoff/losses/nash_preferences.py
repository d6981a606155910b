"""Losses of self-play for preferences that need no reward behind them: each round moves from the policy that sampled, pi_t.

traj.logp["old"] is pi_t. By itself it is the policy that has just acted: a round is then one update, with enough rollouts and
enough epochs to fit them. The sampler `rounds` keeps one policy acting for many updates.
"""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from payoff.catalogue import method
from payoff.losses.preference_links import check_positive, compare, sequence_score
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Pairs, Trajectories, at_start


@method("inpo", kind="loss", paper="arXiv:2407.00617", needs=("old", "ref"), sees="group")
def inpo(evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, eta: float = 0.0075, tau: float | None = None) -> LossOutput:
    """One step of mirror descent towards the Nash policy of a preference game (INPO): (m - 1 / (2 eta))^2.

    m = s_winner - s_loser with s = log pi - (tau / eta) log pi_ref - (1 - tau / eta) log pi_t, summed over own actions.
    Over pairs drawn independently from pi_t, its minimum is exp(E P(y beats y') / eta) pi_ref^(tau / eta) pi_t^(1 - tau / eta) / Z,
    y' from pi_t; repeated, that goes to the Nash policy of the game with KL of weight tau to the reference. Pairs of the best
    and the worst of several, as used in practice, do not keep that.

    tau: None is eta / 3. tau = eta is `ipo` with beta = eta; tau = 0 has no reference
    Metrics: accuracy, margin, chosen, rejected (of s). Raises ValueError unless eta > 0 and 0 <= tau <= eta, or without
    traj.logp["old"] and ["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> inpo(Evaluation(traj.logp["old"], {}), traj, pairs, eta=1.0, tau=0.5).terms  # margins are 0.25 and 0.5
    tensor([0.0625, 0.0000])
    """
    check_positive("inpo", eta=eta)
    tau = eta / 3 if tau is None else tau
    if not 0 <= tau <= eta:
        raise ValueError(f"inpo: tau must lie in 0..eta = 0..{eta}, got {tau}")
    score = sequence_score("inpo", evaluation, traj, {"ref": tau / eta, "old": 1 - tau / eta})
    return compare(lambda a, b: (a - b - 1 / (2 * eta)).square(), score, pairs)


@method("dno", kind="loss", paper="arXiv:2404.03715", needs=("old",), sees="group")
def dno(evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, eta: float = 0.1) -> LossOutput:
    """Soft policy iteration on win rates as cross-entropy (DNO, algorithm 1): the label against sigmoid(eta m).

    m = s_first - s_second with s = sum_t (log pi - log pi_t)(a_t). The labels are sigmoid(r - r') of rewards r = E P(y beats y'): a
    pairing with `labels: logistic` makes them. The minimum is then pi_t exp(r / eta) / Z. Hard labels give DPO with pi_t for the
    reference, the paper's practical version. Rewards that are probabilities differ by little: eta must be small to move.
    Metrics: accuracy, margin, chosen, rejected (of s). Raises ValueError unless eta > 0, or without traj.logp["old"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.tensor([1.0, 0.5]), torch.ones(2))
    >>> dno(Evaluation(traj.logp["old"], {}), traj, pairs).terms  # nothing has moved yet
    tensor([0.6931, 0.6931])
    """
    check_positive("dno", eta=eta)
    score = sequence_score("dno", evaluation, traj, {"old": 1.0})
    return compare(lambda a, b: softplus(-eta * (a - b)), score, pairs)


@method("gpo", kind="loss", paper="arXiv:2410.02197", needs=("old",))
def gpo(evaluation: Evaluation, traj: Trajectories, target: Channel, *, beta: float = 1e-3) -> LossOutput:
    """Move every rollout by its mean score against the others (GPO of general preference models): (s - r / beta)^2.

    s = sum_t (log pi - log pi_t)(a_t); r is the target at the first action: the mean over the start's rollouts of an antisymmetric
    score, which is 0 on average, so that the partition function is taken as 1. With scores that are differences of rewards it is
    reward matching; with the win rate less 1/2 it is SPPO. [N, 1]: aggregate by `sequence-mean-token-mean`.

    A rollout without verdict, or without actions, has no term. Metric error: mean of |s - r / beta|.
    Raises ValueError unless beta > 0, or without traj.logp["old"].

    >>> from payoff.examples import four_answers
    >>> score = Channel(torch.tensor([[1.0], [-1.0], [0.0], [0.0]]), torch.tensor([[True], [True], [True], [False]]))
    >>> traj = four_answers()
    >>> gpo(Evaluation(traj.logp["old"], {}), traj, score, beta=0.5).terms.T
    tensor([[4., 4., 0., 0.]])
    """
    check_positive("gpo", beta=beta)
    number, known = at_start(target, traj)
    known = known & traj.own.any(1)
    moved = sequence_score("gpo", evaluation, traj, {"old": 1.0})
    error = torch.where(known, moved - number / beta, 0)
    mean = float(error.detach().abs().double().sum() / known.sum().clamp(min=1))
    return LossOutput(error.square()[:, None], {"error": mean})
