"""Trust regions by probability mass instead of ratio: what a ratio of 2 moves depends on what it is the ratio of.

A rare action may double and hardly change the distribution; a likely one that goes from 0.99 to 0.8 changes it much, at a ratio no
clip notices. Both losses look at the distribution "this action or any other", which needs nothing but the action's probability.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.catalogue import method
from payoff.losses.ratios import FARTHEST, Acted, acted, means
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories

_SMALLEST = 1e-8  # added to 1 - p, which may round to 0


@method("dppo-tv", kind="loss", paper="arXiv:2602.04879", needs=("old",))
def dppo_tv(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    low: float = 0.15,
    high: float = 0.15,
    bound: float = 20.0,
) -> LossOutput:
    """The weighted policy gradient within a total variation of the action's own probability (DPPO, binary TV).

    term_t = -m_t sg(min(rho_t, bound)) A_t log pi(a_t), rho_t = p_t / q_t, p_t = pi(a_t), q_t = old(a_t). m_t = 0 where A_t > 0
    and p_t - q_t > high, or A_t <= 0 and q_t - p_t > low, else 1: nothing in the direction that has gone far enough, the full
    weight in the other. At rho = 1 the loss is `policy_gradient`.

    low, high: probability mass. bound: of the weight, far out, against overflow rather than for stability.
    For actions with probabilities; a density is none. Aggregate by `constant-length`, with an advantage that is not divided by the
    group's spread, as the paper does. log rho is cut at +-20 nats.
    Metrics: clip_fraction (of the terms that m silences), truncated_fraction (rho above `bound` where m = 1), ratio, approx_kl.
    Raises ValueError without traj.logp["old"], for continuous actions, a negative threshold and a bound below 1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> dppo_tv(Evaluation(traj.logp["old"] + 0.5, {}), traj, advantage).terms
    tensor([[ 0.0000,  0.0000,  0.0000],
            [-0.8244, -0.8244,  0.0000],
            [ 0.0000,  0.0000,  0.0000],
            [-0.4122,  0.0000,  0.0000]])
    """
    found = _checked("dppo_tv", evaluation, traj, target, low, high, bound)
    p, q = _probabilities(found, traj)
    silenced = torch.where(found.advantage > 0, p - q > high, q - p > low)
    return _weighted(found, silenced, bound)


@method("dppo-kl", kind="loss", paper="arXiv:2602.04879", needs=("old",))
def dppo_kl(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    low: float = 0.05,
    high: float = 0.05,
    bound: float = 20.0,
) -> LossOutput:
    """`dppo_tv` with a divergence for the distance (DPPO, binary KL): KL(old, pi) of the action against all others.

    d_t = q_t log(q_t / p_t) + (1 - q_t) log((1 - q_t) / (1 - p_t)); m_t = 0 where A_t > 0, p_t > q_t and d_t > high, or A_t <= 0,
    p_t < q_t and d_t > low. It forgives less where mass leaves a nearly certain action.

    low, high: nats; the rest as there.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> dppo_kl(Evaluation(traj.logp["old"] - 0.5, {}), traj, advantage).terms
    tensor([[0.9098, 0.9098, 0.9098],
            [0.0000, 0.0000, 0.0000],
            [0.9098, 0.9098, 0.9098],
            [0.0000, 0.0000, 0.0000]])
    """
    found = _checked("dppo_kl", evaluation, traj, target, low, high, bound)
    p, q = _probabilities(found, traj)
    divergence = -q * found.far.detach() + (1 - q) * ((1 - q + _SMALLEST) / (1 - p + _SMALLEST)).log()
    silenced = torch.where(found.advantage > 0, (divergence > high) & (p > q), (divergence > low) & (p < q))
    return _weighted(found, silenced, bound)


def _checked(
    name: str, evaluation: Evaluation, traj: Trajectories, target: Channel, low: float, high: float, bound: float
) -> Acted:
    if low < 0 or high < 0 or not bound >= 1:
        raise ValueError(f"{name}: low and high must be at least 0 and bound at least 1, got {low}, {high} and {bound}")
    if traj.actions.is_floating_point():
        raise ValueError(f"{name}: needs probabilities of actions, and continuous actions have densities")
    return acted(name, evaluation, traj, target)


def _probabilities(found: Acted, traj: Trajectories) -> tuple[Float[Tensor, "N T"], Float[Tensor, "N T"]]:
    """What the policy gives each action now, and what the one that acted did; rounding must not lift either above 1."""
    return found.logp.detach().exp().clamp_(max=1), traj.logp["old"].exp().clamp_(max=1)


def _weighted(found: Acted, silenced: Bool[Tensor, "N T"], bound: float) -> LossOutput:
    far = found.far.detach().clamp(-FARTHEST, FARTHEST)
    ratio = far.exp()
    terms = -ratio.clamp(max=bound) * found.advantage * found.logp
    metrics = {
        "clip_fraction": silenced,
        "truncated_fraction": (ratio > bound) & ~silenced,
        "approx_kl": ratio - 1 - far,
        "ratio": ratio,
    }
    return LossOutput(torch.where(found.counts & ~silenced, terms, 0), means(found.counts, metrics))
