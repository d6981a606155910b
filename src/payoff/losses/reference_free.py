"""Losses on pairs without a reference policy: log-probabilities per action, so that length does not decide. Terms are [P]."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from payoff.catalogue import method
from payoff.losses.preference_links import Per, check_positive, compare, sequence_score
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Pairs, Trajectories


@method("simpo", kind="loss", paper="arXiv:2405.14734", sees="group")
def simpo(
    evaluation: Evaluation,
    traj: Trajectories,
    pairs: Pairs,
    *,
    beta: float = 2.0,
    gamma: float = 0.5,
    per: Per = "action",
) -> LossOutput:
    """The likelihood per action as the reward, and a margin to win by (SimPO, eq. 6): -log sigmoid(beta (p_w - p_l) - gamma).

    p is the mean of log pi over a rollout's own actions. Nothing holds the policy near where it started but a small learning rate.

    gamma: in units of beta p; the paper takes 0.3 to 0.5 of beta
    per:   "sequence" with gamma 0 is the contrastive part of CPO
    Metrics: accuracy, margin, chosen, rejected (of p). Raises ValueError unless beta > 0.

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1]]), torch.ones(1), torch.ones(1))
    >>> simpo(Evaluation(traj.logp["old"], {}), traj, pairs).terms  # every action has log-probability -1, so p_w = p_l
    tensor([0.9741])
    """
    check_positive("simpo", beta=beta)
    score = sequence_score("simpo", evaluation, traj, {}, per=per)
    return compare(lambda a, b: softplus(gamma - beta * (a - b)), score, pairs)


@method("orpo", kind="loss", paper="arXiv:2403.07691", sees="group")
def orpo(evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, weight: float = 0.1) -> LossOutput:
    """Supervised learning of the winner and the odds against the loser at once (ORPO, eq. 6-7).

    -p_w - weight log sigmoid(odds_w - odds_l), with p the mean of log pi over a rollout's own actions and odds = p - log(1 - e^p).
    weight is the paper's lambda (TRL's beta). One stage from a base model: the likelihood term is part of it.
    Where a rollout is certain (p = 0) its odds are those of the nearest number below, without gradient.
    Metrics: accuracy, margin, chosen, rejected (of the log-odds). Raises ValueError unless weight >= 0.

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1]]), torch.ones(1), torch.ones(1))
    >>> orpo(Evaluation(traj.logp["old"], {}), traj, pairs).terms  # 1 + 0.1 log 2
    tensor([1.0693])
    """
    if not weight >= 0:
        raise ValueError(f"orpo: weight must be >= 0, got {weight}")
    mean = sequence_score("orpo", evaluation, traj, {}, per="action")
    odds = compare(lambda a, b: weight * softplus(b - a), _log_odds(mean), pairs)
    likelihood = compare(lambda a, b: -a, mean, pairs)
    return LossOutput(likelihood.terms + odds.terms, odds.metrics)


def _log_odds(logp: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """log(p / (1 - p)) of a log-probability, exact near both ends."""
    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    far = logp < -math.log(2)
    # Each branch sees only numbers it can take, so that the other one's gradient is no NaN.
    small = torch.log1p(-torch.where(far, logp, -1.0).exp())
    large = torch.log(-torch.expm1(torch.where(far, -0.1, logp)))
    return logp - torch.where(far, small, large)
