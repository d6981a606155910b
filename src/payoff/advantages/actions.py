"""Set statistics over actions. Every row is reduced first, so that a batch of many long rollouts forms its sets on [N]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.advantages.arrays import blocks, both, centred, cleaned, plain, written
from payoff.sets import Over, members_of, sets
from payoff.trajectories import Channel, Trajectories

_WORD = 8  # bytes that are counted at once
_MOST = 255 * _WORD  # positions whose words can be added without a byte running over
_SHORT = 1024  # positions whose distances may be summed up in single precision
_LEAST, _CLOSE = 1e-30, 16.0  # how small the squares may be there, and how much larger than those about the mean


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

    Sums are of distances from known actions, so those of equal actions are exactly 0; in float64, but for rows of single precision
    of at most 1024 positions, which are summed up in their own as long as nothing is lost by it.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [2.0], [5.0], [5.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> action_statistics(credit, four_answers(), "group").mean.T
    tensor([[1.4000, 1.4000, 5.0000, 5.0000]], dtype=torch.float64)
    """
    members, known = members_of(sets(traj, over)), known_actions(channel, traj)
    number = row_counts(known)[:, None].double()
    first = channel.value.detach().expand(traj.mask.shape).gather(1, first_true(known)[:, None])
    first = torch.where(number > 0, first, 0)
    total = lambda x: members.sum(members.arranged(x))
    member = members.greatest(members.arranged(torch.where(number > 0, first, -torch.inf))).double()
    gap = torch.where(members.arranged(number > 0), members.arranged(first).double() - members.of(member), 0).reshape(number.shape)
    count = total(number)
    for dtype in _precisions(channel):
        own, about = _distances(channel, known, number, first, dtype)
        squares = total(about + 2 * gap * own + number * gap.square())
        shift = total(own + number * gap) / count.clamp(min=1)
        around, about = squares - count * shift.square(), total(about)
        if bool(((about <= _CLOSE * around) & ((about == 0) | ((about > _LEAST) & about.isfinite()))).all()):
            break  # else single precision has lost too much
    equal = squares == 0
    mean = torch.where(count > 0, member + shift, 0)  # for equal members all distances are 0
    enough = ~equal & (count > ddof)
    variance = torch.where(enough, around.clamp(min=0) / (count - ddof).clamp(min=1), 1)
    each = (count, mean, torch.where(enough, variance.sqrt(), 0), equal)
    shape = members.arranged(number).shape
    return ActionStatistics(*(members.of(x).expand(shape).reshape(number.shape) for x in each))


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


def _precisions(channel: Channel) -> tuple[torch.dtype, ...]:
    """What sums over rows are tried in: short ones of single precision in that, as long as nothing is lost; else in double."""
    single = plain(channel.value) and channel.value.dtype == torch.float32 and channel.value.shape[1] <= _SHORT
    return (torch.float32, torch.float64) if single else (torch.float64,)


def _distances(
    channel: Channel, known: Bool[Tensor, "N T"], count: Float[Tensor, "N 1"], first: Float[Tensor, "N 1"], dtype: torch.dtype
) -> tuple[Float[Tensor, "N 1"], Float[Tensor, "N 1"]]:
    """Sums of x - first and of its square over each trajectory's known own actions, float64, worked out in this precision."""
    if channel.value.shape[1] == channel.valid.shape[1] == 1:
        off = torch.where(count > 0, channel.value.double() - first.double(), 0)  # 0, with a gradient
        return count * off, count * off.square()
    x = channel.value.expand(known.shape)
    if not plain(x):
        off = torch.where(known, x, first).double() - first.double()
        return off.sum(1, keepdim=True), off.square().sum(1, keepdim=True)
    found = torch.empty(2, len(x), dtype=dtype)
    part = torch.empty(x[next(blocks(known))].shape, dtype=dtype)
    for rows in blocks(known):
        off = part[: len(x[rows])]
        centred(x[rows].to(dtype), first[rows].to(dtype), known[rows], out=off)
        torch.sum(off, 1, out=found[0, rows])
        torch.linalg.vector_norm(off, dim=1, out=found[1, rows])
    own, norm = found.double()[:, :, None]
    return own, norm.square()
