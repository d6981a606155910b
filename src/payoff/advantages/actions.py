"""Set statistics over actions. Every row is reduced first, so that a batch of many long rollouts forms its sets on [N]."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.sets import Over, SetStatistics, sets, statistics
from payoff.trajectories import Channel, Trajectories

_ENTRIES = 1 << 19  # reduced at a time, so that the temporaries of a large batch stay in the cache


def action_statistics(channel: Channel, traj: Trajectories, over: Over, *, ddof: int = 1) -> SetStatistics:
    """Of the set each trajectory belongs to, counting every known action sampled in it; float64 [N, 1].

    As `statistics`, but a member is an action: `count` is their number, and `others_mean` is the mean, since the others of an
    action in its own rollout are no independent comparison. `over` is a set of whole trajectories.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [2.0], [5.0], [5.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> action_statistics(credit, four_answers(), "group").mean.T
    tensor([[1.4000, 1.4000, 5.0000, 5.0000]], dtype=torch.float64)
    """
    key = sets(traj, over)
    count, total, low, high = _reduced(channel, traj)
    where = count > 0

    def summed(x: Float[Tensor, "N 1"]) -> Float[Tensor, "N 1"]:
        found = statistics(x, key, where)
        return found.mean * found.count

    number = summed(count).round()
    low, high = statistics(low, key, where).low, statistics(high, key, where).high
    equal = low >= high
    mean = torch.where(equal, low, summed(total) / number.clamp(min=1))
    enough = ~equal & (number > ddof)
    variance = torch.where(enough, summed(_squares(channel, traj, mean)) / (number - ddof).clamp(min=1), 1)
    std = torch.where(enough, variance.sqrt(), 0)
    return SetStatistics(number, mean, std, low, high, mean, equal)


def _reduced(channel: Channel, traj: Trajectories) -> list[Float[Tensor, "N 1"]]:
    """Number, sum, least and greatest of each trajectory's known own actions; (0, 0, 0, 0) where there are none."""
    if _uniform(channel):
        count = torch.where(channel.valid, traj.own.sum(1, keepdim=True), 0).double()
        value = torch.where(count > 0, channel.value, 0).double()
        return [count, count * value, value, value]
    parts = [
        (
            known.sum(1, dtype=torch.float64),
            torch.where(known, x, 0).sum(1, dtype=torch.float64),
            torch.where(known, x, torch.inf).amin(1).double(),
            torch.where(known, x, -torch.inf).amax(1).double(),
        )
        for _, x, known in _blocks(channel, traj)
    ]
    columns = [torch.cat(column)[:, None] for column in zip(*parts, strict=True)]
    return [torch.where(columns[0] > 0, column, 0) for column in columns]


def _squares(channel: Channel, traj: Trajectories, mean: Float[Tensor, "N 1"]) -> Float[Tensor, "N 1"]:
    """Sum of squared distances from `mean` of each trajectory's known own actions."""
    if _uniform(channel):
        count = torch.where(channel.valid, traj.own.sum(1, keepdim=True), 0).double()
        return count * (torch.where(count > 0, channel.value, 0).double() - mean).square()
    parts = [torch.where(known, x - mean[rows], 0).square().sum(1) for rows, x, known in _blocks(channel, traj)]
    return torch.cat(parts)[:, None]


def _uniform(channel: Channel) -> bool:
    return channel.value.shape[1] == channel.valid.shape[1] == 1


def _blocks(channel: Channel, traj: Trajectories) -> Iterator[tuple[slice, Tensor, Bool[Tensor, "n T"]]]:
    """(which rows, value, known own action) of some rows at a time; at least one block."""
    value, valid, own = channel.value.expand(traj.mask.shape), channel.valid, traj.own
    rows = max(1, _ENTRIES // max(traj.width, 1))
    for start in range(0, max(len(traj), 1), rows):
        part = slice(start, start + rows)
        yield part, value[part], own[part] & valid[part]
