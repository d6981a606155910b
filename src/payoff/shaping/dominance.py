"""Several rewards as one label: who is beaten by nobody."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from payoff.catalogue import method
from payoff.sets import Over, sets
from payoff.trajectories import Rewards, Trajectories, outcome, place_outcome


@method("non-dominated", kind="shaping", paper="arXiv:2310.00386", sees="group")
def non_dominated(
    rewards: Rewards, traj: Trajectories, *, channels: Sequence[str], name: str = "front", over: Over = "group"
) -> Rewards:
    """A further channel: 1 for a trajectory that no other of its set beats in every reward, else 0 (the Pareto front).

    i is beaten where some j has at least the outcome of i in every channel and more in one; equal ones all stay on the front.
    With one channel: who is best. For `op-gfn-listwise`. Labels hold within the set: a front of one batch may be beaten in another.
    Unknown where any of the channels is; the unknown beat nobody. Compares all pairs of the batch: memory N^2.
    Raises KeyError for a channel that is not there, ValueError without channels or for a name that is taken.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import Channel
    >>> traj, all_known = four_answers(), torch.ones(4, dtype=torch.bool)
    >>> rewards = {"a": place_outcome(torch.tensor([1.0, 2.0, 1.0, 1.0]), all_known, traj),
    ...            "b": place_outcome(torch.tensor([2.0, 1.0, 0.0, 1.0]), all_known, traj)}
    >>> outcome(non_dominated(rewards, traj, channels=["a", "b"])["front"], traj)[0]
    tensor([1., 1., 0., 1.])
    """
    if not channels:
        raise ValueError("non_dominated: channels must name at least one reward")
    if name in rewards:
        raise ValueError(f"non_dominated: there is a channel {name!r} already")
    if lost := [channel for channel in channels if channel not in rewards]:
        raise KeyError(f"non_dominated: no reward channel {lost[0]!r}; there are {sorted(rewards)}")
    key = sets(traj, over)
    if key.shape[1] != 1:
        raise ValueError(f'non_dominated: over must be a set of whole trajectories, got "{over}"')
    found = [outcome(rewards[channel], traj) for channel in channels]
    value, known = torch.stack([x for x, _ in found], 1), torch.stack([v for _, v in found], 1).all(1)
    beats = (key == key.T) & known[:, None] & known
    for column in value.unbind(1):
        beats = beats & (column[None, :] >= column[:, None])
    beaten = (beats & (value[None] > value[:, None]).any(2)).any(1)
    reasons = {id: reason for channel in channels for id, reason in rewards[channel].reasons.items()}
    return {**rewards, name: place_outcome((~beaten).to(value.dtype), known, traj, reasons)}
