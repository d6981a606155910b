"""Sets of trajectories that are compared with one another, and statistics over them. One function of an integer key serves all."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.trajectories import Trajectories

Over = Literal["group", "batch", "step", "siblings"]
_PAIRED = 32  # members of a set up to which they are ranked by comparing each with each


def sets(traj: Trajectories, over: Over) -> Int[Tensor, "N #T"]:
    """The set each number is compared within, as [N, 1] or, for "step" (same group, same step number), [N, T].

    "batch" is one set, unless `extras["batch"]` names several (the exact lab enumerates many batches in one pass).
    """
    batch = traj.extras.get("batch")
    if over == "batch":
        return (torch.zeros_like(traj.group) if batch is None else batch)[:, None]
    if over == "siblings":
        return siblings(traj)[:, None]
    group = traj.group
    if batch is not None:
        dense, count = _dense(group)
        group = _dense(batch)[0] * count + dense
    if over == "group":
        return group[:, None]
    if over != "step":
        raise ValueError(f'sets: over must be "group", "batch", "step" or "siblings", got {over!r}')
    steps = int(traj.step.max()) + 1 if traj.step.numel() else 1
    return _dense(group)[0][:, None] * steps + traj.step.clamp(min=0).long()


class SetStatistics:
    """Of the set each entry belongs to; float64, one entry per input entry. What is never asked for is never worked out.

    count:       members that count
    mean, std:   0 where nothing counts; for members that are all equal exactly that value, and exactly 0
    low, high:   least and greatest; 0 where nothing counts
    others_mean: mean of the other members that count; the entry's own value where there is none
    equal:       all that count are equal, decided in the input's dtype; so is a set of one, and an empty one
    """

    def __init__(
        self, x: Float[Tensor, "*shape"], members: Blocks | Scattered, where: Bool[Tensor, "*shape"], *, ddof: int = 1
    ) -> None:
        self._members, self._shape, self._ddof = members, x.shape, ddof
        self._given, keep = members.arranged(x), members.arranged(where)
        self._keep = None if bool(keep.all()) else keep

    @cached_property
    def count(self) -> Float[Tensor, "*shape"]:
        return self._of_entries(self._count)

    @cached_property
    def mean(self) -> Float[Tensor, "*shape"]:
        some = self._count.clamp(min=1)
        of_equal = self._member + self._total / some  # which adds 0, with a gradient
        return self._of_entries(torch.where(self._total == 0, of_equal, (self._total + some * self._member) / some))

    @cached_property
    def std(self) -> Float[Tensor, "*shape"]:
        # No distance from the greatest is shorter than it is to others by much: little is lost in the difference.
        squares = self._members.sum(self._off.square()) - self._total.square() / self._count.clamp(min=1)
        enough = (self._total != 0) & (self._count > self._ddof)
        variance = torch.where(enough, squares / (self._count - self._ddof).clamp(min=1), 1)
        return self._of_entries(torch.where(enough, variance.sqrt(), 0))

    @cached_property
    def low(self) -> Float[Tensor, "*shape"]:
        low = self._members.least(self._counted(torch.inf))
        return self._of_entries(torch.where(self._count > 0, low, 0).double())

    @cached_property
    def high(self) -> Float[Tensor, "*shape"]:
        return self._of_entries(torch.where(self._count > 0, self._greatest, 0).double())

    @cached_property
    def others_mean(self) -> Float[Tensor, "*shape"]:
        of = self._members.of
        others = of(self._count) - (1 if self._keep is None else self._keep.double())
        mean = of(self._member) + (of(self._total) - self._off) / others.clamp(min=1)
        if mean.requires_grad:  # of a set of one it is the entry itself
            mean = torch.where(others > 0, mean, of(self._member) + self._off)
        return mean.expand(self._given.shape).reshape(self._shape)

    @cached_property
    def equal(self) -> Bool[Tensor, "*shape"]:
        return self._of_entries(self._total == 0)

    def _counted(self, otherwise: float) -> Tensor:
        return self._given if self._keep is None else torch.where(self._keep, self._given, otherwise)

    def _of_entries(self, number: Tensor) -> Tensor:
        return self._members.of(number).expand(self._given.shape).reshape(self._shape)

    @cached_property
    def _count(self) -> Tensor:
        return self._members.sizes(self._given) if self._keep is None else self._members.sum(self._keep.double())

    @cached_property
    def _greatest(self) -> Tensor:
        return self._members.greatest(self._counted(-torch.inf))

    @cached_property
    def _member(self) -> Tensor:
        """The greatest that counts, as a number to measure from."""
        return torch.where(self._count > 0, self._greatest.detach(), 0).double()

    @cached_property
    def _off(self) -> Tensor:
        """How far each that counts is from the greatest: none is above it, and where all are equal all are exactly 0."""
        off = self._given.double() - self._members.of(self._member)
        return off if self._keep is None else torch.where(self._keep, off, 0)

    @cached_property
    def _total(self) -> Tensor:
        """The sum of these distances: 0 only where all are equal."""
        return self._members.sum(self._off)


def statistics(
    x: Float[Tensor, "*shape"], key: Int[Tensor, "*keys"], where: Bool[Tensor, "*shape"], *, ddof: int = 1
) -> SetStatistics:
    """Statistics of the set each entry belongs to, counting only `where`; differentiable in x.

    key: the set of each entry; for x [N, T] also one of each row [N], with every column of x compared by itself.
    Any order, any sizes. Accumulated in float64, so a set of equal members has exactly their value as mean and 0 as std,
    whatever the value: (x - mean) is then exactly 0, never a rounding error that a small epsilon turns into a full-size number.
    A set with at most `ddof` members has std 0.
    """
    return SetStatistics(x, members_of(key), where, ddof=ddof)


def sums(x: Float[Tensor, "*shape"], key: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The sum of x over the set each entry belongs to, float64, for each entry."""
    members = members_of(key)
    x64 = members.arranged(x.double())
    return members.of(members.sum(x64)).expand(x64.shape).reshape(x.shape)


def rank(x: Float[Tensor, " N"], key: Int[Tensor, " N"], where: Bool[Tensor, " N"], id: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """0 for the largest of its set; ties in order of `id`; members that do not count come last."""
    rising = bool((id[1:] > id[:-1]).all())
    members = members_of(key)
    if isinstance(members, Blocks) and members.shape[1] <= _PAIRED and not bool((where & ~(x > -torch.inf)).any()):
        least, shape = torch.where(where, x, -torch.inf), members.shape[:2]
        return _rank_in_pairs(least.view(shape), None if rising else id.view(shape))
    index, size = _dense(key)
    least = torch.where(where, x, -torch.inf)
    by_id = None if rising else id.argsort(stable=True)
    taken = lambda y, order: y if order is None else y.index_select(0, order)
    order = taken(least, by_id).argsort(descending=True, stable=True)
    order = order if by_id is None else by_id.index_select(0, order)
    if bool((where & (x == -torch.inf)).any()):  # these come before the members that do not count
        order = order.index_select(0, (~where).index_select(0, order).int().argsort(stable=True))
    order = order.index_select(0, index.index_select(0, order).argsort(stable=True))
    first = torch.zeros(size + 1, dtype=torch.int64, device=x.device)
    first[1:] = torch.bincount(index, minlength=size).cumsum(0)
    place = torch.arange(len(x), device=x.device) - first.index_select(0, index.index_select(0, order))
    return torch.empty_like(place).scatter_(0, order, place)


def siblings(traj: Trajectories) -> Int[Tensor, " N"]:
    """For each row the set of branches that left the same trajectory at the same action.

    A trajectory that is itself no branch belongs to the set of its branches where all of them in the batch left at one action:
    it is one more sample of that choice. Everyone else is alone.
    """
    own_set = torch.arange(len(traj), device=traj.device)
    if traj.parent is None or traj.fork is None:
        return own_set
    branch = traj.parent >= 0
    pair = torch.stack([torch.where(branch, traj.parent, -1), torch.where(branch, traj.fork, -1 - own_set), traj.group], 1)
    key = pair.unique(dim=0, return_inverse=True)[1]
    above = _rows_of(traj.parent, traj)
    child = ((above >= 0) & (traj.group[above.clamp(min=0)] == traj.group)).nonzero().squeeze(1)
    bounds = [
        torch.full_like(key, fill).scatter_reduce(0, above[child], traj.fork[child], how, include_self=False)
        for fill, how in ((-1, "amin"), (-2, "amax"))
    ]
    joined = key.scatter(0, above[child], key[child])
    return torch.where((bounds[0] == bounds[1]) & ~branch, joined, key)


def owner(traj: Trajectories) -> Int[Tensor, "N T"]:
    """The id of the row that sampled each action; a shared prefix has one owner (an ancestor outside the batch is named too)."""
    result = traj.id[:, None].repeat(1, traj.width)
    if traj.parent is None or traj.fork is None:
        return result
    above = _rows_of(traj.parent, traj)[:, None]
    inherited = (torch.arange(traj.width, device=traj.device) < traj.fork[:, None]) & (traj.parent >= 0)[:, None]
    result = torch.where(inherited & (above < 0), traj.parent[:, None], result)
    while True:  # one pass per generation of branches
        known = torch.where(inherited & (above >= 0), result[above[:, 0].clamp(min=0)], result)
        if torch.equal(known, result):
            return result
        result = known


def nodes(traj: Trajectories, last: Int[Tensor, "N S"]) -> Int[Tensor, "N S"]:
    """The node of the tree that each step of a row is: one number for all rows that share the step up to its last position.

    last: where each step ends, -1 where the row has no such step; so is its node. Some numbers are left out.

    >>> from payoff.examples import four_answers
    >>> nodes(four_answers(), torch.tensor([[0], [0], [0], [-1]])).T
    tensor([[ 0,  1,  6, -1]])
    """
    whose = traj.id[:, None].expand(last.shape) if traj.parent is None else owner(traj).gather(1, last.clamp(min=0))
    sampled, group = (key.unique(return_inverse=True)[1] for key in (whose, sets(traj, "group")))
    steps, owners = last.shape[1], int(sampled.max()) + 1 if sampled.numel() else 1
    return torch.where(last >= 0, (group * owners + sampled) * steps + torch.arange(steps, device=traj.device), -1)


def _rows_of(ids: Int[Tensor, " M"], traj: Trajectories) -> Int[Tensor, " M"]:
    """A row that holds each of these trajectories; -1 for one that is not in the batch."""
    order = traj.id.argsort()
    place = torch.searchsorted(traj.id[order], ids.contiguous()).clamp(max=max(len(traj) - 1, 0))
    row = order[place]
    return torch.where(traj.id[row] == ids, row, -1)


class Blocks(NamedTuple):
    """Keys that come set by set, as rollouts are sampled: [sets, members, columns], reduced without looking anything up.

    With keys [N] and x [N, T] every column of x is reduced by itself.
    """

    shape: tuple[int, int, int]

    def arranged(self, x: Tensor) -> Tensor:
        return x.reshape(*self.shape[:2], -1)

    def sizes(self, x: Tensor) -> Tensor:
        """The number of members of each set, of each column of these entries."""
        return torch.full((1, 1, 1), self.shape[1], dtype=torch.float64, device=x.device)

    def sum(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True)

    def least(self, x: Tensor) -> Tensor:
        return x.amin(1, keepdim=True)

    def greatest(self, x: Tensor) -> Tensor:
        return x.amax(1, keepdim=True)

    def of(self, number: Tensor) -> Tensor:
        """Of the set of each entry: it broadcasts over the members."""
        return number


class Scattered(NamedTuple):
    """Keys in any order: which set each entry is of, and how many sets there are."""

    place: Int[Tensor, " n"]
    size: int

    def arranged(self, x: Tensor) -> Tensor:
        return x.reshape(-1) if x.numel() == len(self.place) else x

    def sizes(self, x: Tensor) -> Tensor:
        """The number of members of each set, of each column of these entries."""
        return torch.bincount(self.place, minlength=self.size).double().view(-1, *[1] * (x.ndim - 1))

    def sum(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.size, *x.shape[1:]).index_add(0, self.place, x)

    def least(self, x: Tensor) -> Tensor:
        return self._edge(x, torch.inf, "amin")

    def greatest(self, x: Tensor) -> Tensor:
        return self._edge(x, -torch.inf, "amax")

    def of(self, number: Tensor) -> Tensor:
        """Of the set of each entry."""
        return number.index_select(0, self.place)

    def _edge(self, x: Tensor, start: float, how: str) -> Tensor:
        index = self.place if x.ndim == 1 else self.place[:, None].expand(x.shape)
        return x.new_full((self.size, *x.shape[1:]), start).scatter_reduce(0, index, x, how)


def members_of(key: Int[Tensor, "..."]) -> Blocks | Scattered:
    """How entries find their set: by place, where all sets are of one size and in rising order, otherwise by number.

    What lies beside the keys on more columns, x [N, T] for keys [N], is reduced column by column.
    """
    if key.ndim == 2 and key.shape[1] > 1 and key.stride(1) == 0:  # whole rows, looked at once each
        found, columns = members_of(key[:, 0]), key.shape[1]
        if isinstance(found, Blocks):
            return Blocks((found.shape[0], found.shape[1] * columns, 1))
        return Scattered(found.place.repeat_interleave(columns), found.size)
    for columns in dict.fromkeys((1, key[0].numel())) if key.numel() else ():
        rows = key.reshape(-1, columns)
        size = int((rows[:, 0] != rows[0, 0]).view(torch.uint8).argmax()) or len(rows)
        if len(rows) % size:
            continue
        blocks = rows.view(-1, size, columns)
        heads = blocks[:, 0].reshape(-1)
        if bool((heads[1:] > heads[:-1]).all()) and (size == 1 or bool((blocks == blocks[:, :1]).all())):
            return Blocks((len(blocks), size, columns))
    return Scattered(*_dense(key))


def _rank_in_pairs(x: Float[Tensor, "M G"], id: Int[Tensor, "M G"] | None) -> Int[Tensor, " N"]:
    """How many of its set come before each: larger ones, and equal ones of a lesser id (None: they are in that order)."""
    x = x.t().contiguous()  # members first, so that comparisons run along sets
    other, g = x[:, None], len(x)
    in_order = lambda: torch.ones(g, g, dtype=torch.bool, device=x.device).triu(1)[:, :, None]
    earlier = in_order() if id is None else id.t()[:, None] < id.t()
    before = (other > x) | ((other == x) & earlier)
    return before.view(torch.uint8).sum(0, dtype=torch.uint8).t().reshape(-1).long()


def _dense(key: Tensor) -> tuple[Int[Tensor, " n"], int]:
    """Keys as numbers from 0, flat, and how many there may be; sorting only where the keys are far apart."""
    flat = key.reshape(-1).long()
    if not flat.numel():
        return flat, 1
    low, high = (int(bound) for bound in flat.aminmax())
    if high - low < 4 * flat.numel() + 1024:
        return flat - low, high - low + 1
    values, inverse = flat.unique(return_inverse=True)
    return inverse, len(values)
