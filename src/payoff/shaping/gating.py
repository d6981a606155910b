"""Rewards that count only once a more important one was earned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import merge_reasons
from payoff.trajectories import Channel, Rewards, Trajectories, outcome


@method("g-ra", kind="shaping", paper="arXiv:2508.10548")
def gate(
    rewards: Rewards,
    traj: Trajectories,
    *,
    by: str | Sequence[str] = "correct",
    threshold: float | Sequence[float] = 0.5,
    channels: Sequence[str] | None = None,
) -> Rewards:
    """Let rewards count only in trajectories whose more important reward reached a threshold (gated reward accumulation, G-RA).

    g = 1[outcome(by) >= threshold]; every gated channel becomes g * channel, before any return or statistic is taken of it.
    Reaching the threshold exactly opens the gate. threshold -inf: nothing is gated; +inf: only `by` is left.

    by:        the gating channel, left as it is; or several, most important first. Each but the first is itself gated by those
               before it, and the `channels` count only where all of them passed: levels nest.
    threshold: one for all levels, or one for each
    channels:  what is gated; by default every channel that is no gate

    A trajectory with a closed gate earns nothing below it whatever its other graders said, so what they failed to say there is
    known to be 0. Where a gate is unknown, and no other closed, what depends on it is unknown.
    The gate depends on the finished trajectory: gated step rewards say nothing about the moment they are paid, so credit them by
    Monte Carlo returns, not by a bootstrapped critic. If all of a group fail there is no signal below the gate, as intended.

    Raises KeyError for a channel nobody gives, ValueError for a gate that is also gated or as many thresholds as do not fit.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj, sure = four_answers(), torch.ones(4, dtype=torch.bool)
    >>> rewards = {
    ...     "correct": place_outcome(torch.tensor([1.0, 0.0, 1.0, 0.0]), sure, traj),
    ...     "style": place_outcome(torch.tensor([0.3, 0.9, 0.1, 0.9]), sure, traj),
    ... }
    >>> outcome(gate(rewards, traj)["style"], traj)[0]
    tensor([0.3000, 0.0000, 0.1000, 0.0000])
    """
    levels = [by] if isinstance(by, str) else list(by)
    thresholds = list(threshold) if isinstance(threshold, Sequence) else [threshold] * len(levels)
    if not levels or len(thresholds) != len(levels):
        raise ValueError(f"gate: one threshold for each of the gates {levels}, or one for all, got {thresholds}")
    gated = [name for name in rewards if name not in levels] if channels is None else list(channels)
    if both := [name for name in gated if name in levels]:
        raise ValueError(f"gate: {both[0]!r} is a gate and cannot be gated; levels nest by their order in `by`")
    if lost := [name for name in (*levels, *gated) if name not in rewards]:
        raise KeyError(f"gate: no reward channel {lost[0]!r}; there are {sorted(rewards)}")

    result = dict(rewards)
    above: list[Channel] = []
    closed = unsure = torch.zeros_like(traj.length, dtype=torch.bool)
    for name, least in zip(levels, thresholds, strict=True):
        if above:
            result[name] = _gated(rewards[name], closed, unsure, above)
        score, sure = outcome(rewards[name], traj)
        closed = closed | (sure & (score < least))
        unsure = unsure | ~sure
        above.append(rewards[name])
    return result | {name: _gated(rewards[name], closed, unsure, above) for name in gated}


def _gated(channel: Channel, closed: Bool[Tensor, " N"], unsure: Bool[Tensor, " N"], above: list[Channel]) -> Channel:
    """A known 0 where any gate above is known to be closed, else unknown where one is, else the channel."""
    closed, unsure = closed[:, None], unsure[:, None]
    valid = closed | (channel.valid & ~unsure)
    return Channel(torch.where(valid & ~closed, channel.value, 0), valid, merge_reasons([*above, channel]))
