"""Set statistics over actions. Every row is reduced first, so that a batch of many long rollouts forms its sets on [N]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.advantages.arrays import blocks, both, cleaned, plain, written
from payoff.sets import Over, members_of, sets, sums
from payoff.trajectories import Channel, Trajectories

_WORD = 8  # bytes that are counted at once
_MOST = 255 * _WORD  # positions whose words can be added without a byte running over


class ActionStatistics(NamedTuple):
    """Of the set each trajectory belongs to, counting actions; float64 [N, 1].

    count:     known actions
    mean, std: 0 where nothing counts; for actions that are all equal exactly that value, and exactly 0
    equal:     all that count are equal; so is a set of one, and an empty one
    """

    count: Float[Tensor, "N 1"]  # type: ignore[assignment]  # the field takes the place of tuple.count
    mean: Float[Tensor, "N 1"]
    std: Float[Tensor, "N 1"]
    equal: Bool[Tensor, "N 1"]


def action_statistics(channel: Channel, traj: Trajectories, over: Over, *, ddof: int = 1) -> ActionStatistics:
    """Statistics of every known action sampled in the set each trajectory belongs to; `over` is a set of whole trajectories.

    Sums are of distances from one member of the set, so equal actions have a distance of exactly 0, and are accumulated in float64.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [2.0], [5.0], [5.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> action_statistics(credit, four_answers(), "group").mean.T
    tensor([[1.4000, 1.4000, 5.0000, 5.0000]], dtype=torch.float64)
    """
    key = sets(traj, over)
    known = known_actions(channel, traj)
    count = row_counts(known)[:, None].double()
    here = count > 0
    some = channel.value.detach().expand(traj.mask.shape).gather(1, first_true(known)[:, None])
    member = greatest(some, key, here)
    off, squares = _distances(channel, known, count, member)
    number, squares = sums(count, key), sums(squares, key)
    equal = squares == 0
    shift = sums(off, key) / number.clamp(min=1)
    mean = member.double() + shift  # for equal members off is 0 throughout
    enough = ~equal & (number > ddof)
    around = (squares - number * shift.square()).clamp(min=0)
    variance = torch.where(enough, around / (number - ddof).clamp(min=1), 1)
    return ActionStatistics(number, torch.where(number > 0, mean, 0), torch.where(enough, variance.sqrt(), 0), equal)


def known_actions(channel: Channel, traj: Trajectories) -> Bool[Tensor, "N T"]:
    """The policy's own actions that have a verdict."""
    if channel.valid.shape[1] == 1 and channel.valid.all():
        return traj.own
    return both(traj.own, channel.valid)


def known_positions(channel: Channel, traj: Trajectories) -> Bool[Tensor, "N T"]:
    """The positions that exist and have a verdict."""
    if channel.valid.shape[1] == 1 and channel.valid.all():
        return traj.exists
    return both(traj.exists, channel.valid)


def written_out(channel: Channel, traj: Trajectories) -> Float[Tensor, "N T"]:
    """An advantage as one number for every action, as other trainers keep it: 0 where the policy did not act.

    One column is written out in a single pass over [N, T]; what is [N, T] already is returned as it is.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [-1.0], [0.5], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> written_out(credit, four_answers())
    tensor([[ 1.0000,  1.0000,  1.0000],
            [-1.0000, -1.0000,  0.0000],
            [ 0.5000,  0.5000,  0.5000],
            [-0.5000,  0.0000,  0.0000]])
    """
    return channel.value if channel.value.shape == traj.mask.shape else written(channel.value, traj.mask)


def greatest(x: Float[Tensor, "*shape"], key: Int[Tensor, "*shape"], where: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The largest of the set each entry belongs to, counting only `where`; 0 where nothing counts.

    >>> greatest(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0, 0, 1]), torch.tensor([True, True, False]))
    tensor([2., 2., 0.])
    """
    members = members_of(key)
    given = members.arranged(torch.where(where, x, -torch.inf))
    found = members.greatest(given)
    return members.of(torch.where(found > -torch.inf, found, 0)).expand(given.shape).reshape(x.shape)


def row_counts(mask: Bool[Tensor, "N T"]) -> Int[Tensor, " N"]:
    """How many are True in each row: whole words of bytes are added where they can be, ten times as fast as counting.

    >>> row_counts(torch.tensor([[True, False, True], [False, False, False]]))
    tensor([2, 0])
    """
    width = mask.shape[1]
    if width % _WORD or width > _MOST or not mask.is_contiguous() or not len(mask):
        return mask.sum(1)
    return mask.view(torch.int64).sum(1, keepdim=True).view(torch.uint8).sum(1)


def first_true(mask: Bool[Tensor, "N T"]) -> Int[Tensor, " N"]:
    """Where each row's first True is; 0 where there is none.

    >>> first_true(torch.tensor([[False, True, True], [False, False, False]]))
    tensor([1, 0])
    """
    first = torch.zeros(len(mask), dtype=torch.int64, device=mask.device)
    late = (~mask[:, 0]).nonzero().squeeze(1)
    return first if not len(late) else first.index_copy_(0, late, mask[late].view(torch.uint8).argmax(1))


def row_blocks(traj: Trajectories) -> Iterator[slice]:
    """Some rows at a time, all together every row once; at least one slice."""
    return blocks(traj.mask)


def row_means(x: Float[Tensor, "N T"], where: Bool[Tensor, "N T"], traj: Trajectories) -> Float[Tensor, " N"]:
    """The mean of what counts in each row, summed up in float64, so that equal numbers have exactly their value; 0 where none does.

    >>> from payoff.examples import four_answers
    >>> x = torch.tensor([[1.0, 2.0, torch.nan]]).repeat(4, 1)
    >>> row_means(x, ~x.isnan(), four_answers())
    tensor([1.5000, 1.5000, 1.5000, 1.5000], dtype=torch.float64)
    """
    total = torch.cat([part.sum(1) for _, part in cleaned(x, where, torch.float64)])
    return total / row_counts(where).clamp(min=1)


def _distances(
    channel: Channel, known: Bool[Tensor, "N T"], count: Float[Tensor, "N 1"], member: Float[Tensor, "N 1"]
) -> tuple[Float[Tensor, "N 1"], Float[Tensor, "N 1"]]:
    """Sums of x - member and of its square over each trajectory's known own actions, float64."""
    if channel.value.shape[1] == channel.valid.shape[1] == 1:
        off = torch.where(count > 0, channel.value.double() - member.double(), 0)
        return count * off, count * off.square()
    x = channel.value.expand(known.shape)
    if not plain(x):
        off = torch.where(known, x, member).double() - member.double()
        return off.sum(1, keepdim=True), off.square().sum(1, keepdim=True)
    found = member.new_empty(2, len(x), 1, dtype=torch.float64)
    for rows, part in cleaned(x, known, torch.float64, fill=member):
        off = part.sub_(member[rows])
        found[0, rows] = off.sum(1, keepdim=True)
        found[1, rows] = off.mul_(off).sum(1, keepdim=True)
    return found[0], found[1]
