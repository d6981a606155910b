"""Negative-aware fine-tuning: likelihood of right answers, and of wrong ones under the policy that is left when right ones go."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories, log_ratio

_LARGEST_LOG_RATIO = 10.0
_RATES = (0.02, 0.98)  # pass rates are held in between, or 1 / (1 - r) would be anything


@method("nft", kind="loss", paper="arXiv:2505.18116", needs=("old",))
def negative_aware(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    weight: Literal["dr-grpo", "grpo", "even"] = "dr-grpo",
    negative: float = 1.0,
    least_positive: float = 0.0,
    least_negative: float = 1.0,
    level: Literal["action", "sequence"] = "action",
) -> LossOutput:
    """Likelihood of right answers under pi, and of wrong ones under what old implies once pi is taken out (NFT).

    old = r pi + (1 - r) pi_wrong, with r the start's pass rate, so pi_wrong / old = (1 - r rho) / (1 - r), rho = pi / old.
    term = -w log(rho) where right, -w negative log((1 - r rho) / (1 - r)) where wrong; both arguments of log are raised to at least
    `least_positive` and `least_negative` in value while their gradient passes as it is: a plain clamp at 1 would leave a wrong
    answer without any gradient on policy.

    The target is R - r, the outcome minus the group's mean (`mean_baseline` of outcomes 0 and 1): positive exactly where R = 1, and
    r is its size where R = 0, 1 minus it where R = 1. So r is that of the whole group however the batch is cut, and groups all
    right or all wrong, whose target is 0, give nothing. r is held in 0.02..0.98, log rho below 10.

    weight: w = 1 - r ("dr-grpo"), sqrt((1 - r) / r) ("grpo"), or 1. On policy (rho = 1) the gradient is that of `policy_gradient`
            with exactly the advantage of that name (r as it is; GRPO's with divisor n, undivided by any epsilon)
    negative: of the wrong answers' terms; 0 leaves weighted cloning of right answers (rejection fine-tuning)
    level:  rho of each action, or of the whole sequence at every own action (aggregate it by the sequence mean: one term each)

    Metrics: rejected_fraction, the share of wrong answers' terms where pi has taken more than there was, r rho > 1.
    Raises ValueError without traj.logp["old"], for a target outside -1..1, for an unknown weight, and for a negative `negative`.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> target = Channel(torch.tensor([[0.5], [-0.5], [0.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> twice_as_likely = Evaluation(traj.logp["old"] + torch.tensor(2.0).log(), {})
    >>> negative_aware(twice_as_likely, traj, target, least_negative=0.1).terms
    tensor([[-0.3466, -0.3466, -0.3466],
            [ 1.1513,  1.1513,  0.0000],
            [ 0.0000,  0.0000,  0.0000],
            [ 0.0000,  0.0000,  0.0000]])
    """
    if "old" not in traj.logp:
        raise ValueError('nft: needs traj.logp["old"], the log-probabilities of the policy that acted')
    if negative < 0:
        raise ValueError(f"nft: negative must be at least 0, got {negative}")
    surplus = torch.where(target.valid & traj.own, target.value, 0)
    if (surplus.abs() > 1).any():
        raise ValueError("nft: the target must be an outcome of 0 or 1 minus its group's mean, within -1..1")
    counts, right = surplus != 0, surplus > 0
    rate = torch.where(right, 1 - surplus, -surplus).clamp(*_RATES)
    far = log_ratio(evaluation.logp, traj.logp["old"], traj, level=level).clamp(max=_LARGEST_LOG_RATIO)
    ratio = far.exp()
    left = (1 - rate * ratio) / (1 - rate)
    positive_term = -_at_least(ratio, least_positive).log()
    negative_term = -negative * _at_least(left, least_negative).log()
    terms = _weight(weight, rate) * torch.where(right, positive_term, negative_term)
    wrong = counts & ~right
    rejected = float((wrong & (left < 0)).sum() / wrong.sum().clamp(min=1))
    return LossOutput(torch.where(counts, terms, 0), {"rejected_fraction": rejected})


def _weight(weight: str, rate: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    if weight == "dr-grpo":
        return 1 - rate
    if weight == "grpo":
        return ((1 - rate) / rate).sqrt()
    if weight == "even":
        return torch.ones_like(rate)
    raise ValueError(f'nft: weight must be "dr-grpo", "grpo" or "even", got {weight!r}')


def _at_least(x: Float[Tensor, "N T"], least: float) -> Float[Tensor, "N T"]:
    """max(x, least) in value, x in gradient."""
    least = max(least, 1e-12)  # log 0 has no value
    return x + (x.clamp(min=least) - x).detach()
