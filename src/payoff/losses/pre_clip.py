"""Ratios held in a range before any loss sees them."""

from __future__ import annotations

import math

from payoff.catalogue import method
from payoff.losses.ratios import FARTHEST, acted, check_bounds, clipped, means
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories


@method("r1-reward", kind="loss", paper="arXiv:2505.02835", needs=("old",))
def stable_reinforce(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    smallest: float = 1e-3,
    largest: float = 1e3,
    low: float = 0.2,
    high: float = 0.2,
) -> LossOutput:
    """PPO's clip on log-ratios that were cut first (the pre-clip of StableReinforce), so that no exp overflows.

    rho_t = exp(clip(log pi(a_t) - log old(a_t), log smallest, log largest)), term_t = -min(rho_t A_t, clip(rho_t, 1 - low, 1 +
    high) A_t). Where all log-ratios lie in the range, value and gradient are those of `ppo_clip`; outside it the gradient is
    exactly 0. That is new where A < 0 and the ratio is huge: there PPO's minimum takes the side without a bound. `dual_clip` ends
    the gradient too, far earlier, at a ratio of 3.

    Aggregate by `sequence-mean-token-mean`. `ppo_clip` itself cuts at +-20 nats.
    Metrics: pre_clip_fraction (of the terms, those outside the range), clip_fraction, approx_kl, ratio as of `ppo_clip`.
    Raises ValueError without traj.logp["old"], for bounds that do not allow 1, and for a range without 1 inside or beyond 20 nats.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> twelve_nats_off = Evaluation(traj.logp["old"] + torch.tensor([12.0, 0.0, 0.0]), {})
    >>> stable_reinforce(twelve_nats_off, traj, advantage, largest=100.0).terms
    tensor([[ -1.2000,  -1.0000,  -1.0000],
            [100.0000,   1.0000,   0.0000],
            [ -1.2000,  -1.0000,  -1.0000],
            [ 50.0000,   0.0000,   0.0000]])
    """
    check_bounds("stable_reinforce", low, high)
    if not math.exp(-FARTHEST) <= smallest < 1 < largest <= math.exp(FARTHEST):
        raise ValueError(f"stable_reinforce: needs smallest < 1 < largest, both within 20 nats, got {smallest} and {largest}")
    counts, advantage, _, far = acted("stable_reinforce", evaluation, traj, target)
    held = far.clamp(math.log(smallest), math.log(largest))
    found = clipped(counts, advantage, held, low, high)
    metrics = {
        "pre_clip_fraction": held != far,
        "clip_fraction": found.took,
        "approx_kl": found.kl,
        "ratio": found.ratio,
    }
    return LossOutput(found.terms, means(counts, metrics))
