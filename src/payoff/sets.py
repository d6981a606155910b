"""Sets of trajectories that are compared with one another, and statistics over them. One function of an integer key serves all."""

from __future__ import annotations

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


class SetStatistics(NamedTuple):
    """Of the set each entry belongs to; float64, one entry per input entry.

    count:       members that count
    mean, std:   0 where nothing counts; for members that are all equal exactly that value, and exactly 0
    low, high:   least and greatest; 0 where nothing counts
    others_mean: mean of the other members that count; the entry's own value where there is none
    equal:       all that count are equal, decided in the input's dtype; so is a set of one, and an empty one
    """

    count: Float[Tensor, "*shape"]  # type: ignore[assignment]  # the field takes the place of tuple.count
    mean: Float[Tensor, "*shape"]
    std: Float[Tensor, "*shape"]
    low: Float[Tensor, "*shape"]
    high: Float[Tensor, "*shape"]
    others_mean: Float[Tensor, "*shape"]
    equal: Bool[Tensor, "*shape"]


def statistics(
    x: Float[Tensor, "*shape"], key: Int[Tensor, "*shape"], where: Bool[Tensor, "*shape"], *, ddof: int = 1
) -> SetStatistics:
    """Statistics of the set each entry belongs to, counting only `where`; differentiable in x.

    Any order, any sizes. Accumulated in float64, so a set of equal members has exactly their value as mean and 0 as std,
    whatever the value: (x - mean) is then exactly 0, never a rounding error that a small epsilon turns into a full-size number.
    A set with at most `ddof` members has std 0.
    """
    members = members_of(key)
    flat, keep = members.arranged(x), members.arranged(where)
    everyone = bool(keep.all())
    counted = lambda y, otherwise: y if everyone else torch.where(keep, y, otherwise)
    x64 = counted(flat, 0).double()
    one = None if everyone else keep.double()
    count = members.sizes() if one is None else members.sum(one)
    total = members.sum(x64)
    low, high = members.least(counted(flat, torch.inf)), members.greatest(counted(flat, -torch.inf))
    equal, some = low >= high, count > 0
    low, high = torch.where(some, low, 0).double(), torch.where(some, high, 0).double()
    mean = torch.where(equal, low, total / count.clamp(min=1))
    count_of, mean_of, low_of, equal_of = map(members.of, (count, mean, low, equal))
    off = x64 - mean_of
    squares = members.sum((off if one is None else off * one).square())
    enough = ~equal & (count > ddof)
    variance = torch.where(enough, squares / (count - ddof).clamp(min=1), 1)
    std = torch.where(enough, variance.sqrt(), 0)
    others = count_of - (1 if one is None else one)
    others_mean = (members.of(total) - x64) / others.clamp(min=1)
    # Exactly the common value where all are equal, with the gradient of a mean of the others all the same.
    common = others_mean + (low_of - others_mean).detach() if x64.requires_grad else low_of
    others_mean = torch.where(equal_of, common, others_mean)
    if x64.requires_grad:  # of a set of one it is the entry itself, which `low` is too, but for its gradient
        others_mean = torch.where(others > 0, others_mean, x64)
    entries = (count_of, mean_of, members.of(std), low_of, members.of(high), others_mean, equal_of)
    return SetStatistics(*(entry.expand(flat.shape).reshape(x.shape) for entry in entries))


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
    device: torch.device

    def arranged(self, x: Tensor) -> Tensor:
        return x.reshape(*self.shape[:2], -1)

    def sizes(self) -> Tensor:
        sets, members, columns = self.shape
        return torch.full((sets, 1, columns), members, dtype=torch.float64, device=self.device)

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

    def sizes(self) -> Tensor:
        return torch.bincount(self.place, minlength=self.size).double()

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
    for columns in dict.fromkeys((1, key[0].numel())) if key.numel() else ():
        rows = key.reshape(-1, columns)
        size = int((rows[:, 0] != rows[0, 0]).view(torch.uint8).argmax()) or len(rows)
        if len(rows) % size:
            continue
        blocks = rows.view(-1, size, columns)
        heads = blocks[:, 0].reshape(-1)
        if bool((heads[1:] > heads[:-1]).all()) and (size == 1 or bool((blocks == blocks[:, :1]).all())):
            return Blocks((len(blocks), size, columns), key.device)
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
