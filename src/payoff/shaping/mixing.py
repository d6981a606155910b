"""Several rewards made one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from payoff.catalogue import method
from payoff.pipeline import weighted_sum
from payoff.trajectories import Rewards, Trajectories


@method("mix", kind="shaping")
def mix(
    rewards: Rewards,
    traj: Trajectories,
    *,
    weights: Mapping[str, float],
    into: str = "mixed",
    missing: Literal["drop", "skip"] = "drop",
) -> Rewards:
    """Add a channel that is the weighted sum of others: rewards[into] = sum_k weights[k] * rewards[k], payment by payment.

    For what must act on the sum (a squash, a gate, one advantage of everything); otherwise `weigh` mixes at the end of the paths.
    The summands stay, for reports and for paths of their own.

    missing: the sum is unknown wherever a summand is ("drop"), or made of those that are known ("skip").
    Raises ValueError without weights or when `into` is taken by a channel, KeyError for a channel nobody gives.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj, sure = four_answers(), torch.ones(4, dtype=torch.bool)
    >>> rewards = {
    ...     "correct": place_outcome(torch.tensor([1.0, 0.0, 1.0, 0.0]), sure, traj),
    ...     "style": place_outcome(torch.tensor([0.5, 0.5, 0.0, 1.0]), sure, traj),
    ... }
    >>> mix(rewards, traj, weights={"correct": 1.0, "style": 0.5})["mixed"].value
    tensor([[0.0000, 0.0000, 1.2500],
            [0.0000, 0.2500, 0.0000],
            [0.0000, 0.0000, 1.0000],
            [0.5000, 0.0000, 0.0000]])
    """
    if not weights:
        raise ValueError("mix: no weights, so nothing to add up")
    if missing not in ("drop", "skip"):
        raise ValueError(f'mix: missing must be "drop" or "skip", got {missing!r}')
    if into in rewards:
        raise ValueError(f"mix: there already is a reward channel {into!r}; choose another name for the sum")
    if lost := [name for name in weights if name not in rewards]:
        raise KeyError(f"mix: no reward channel {lost[0]!r}; there are {sorted(rewards)}")
    return {**rewards, into: weighted_sum(rewards, weights, missing=missing)}
