"""Rows cut where the step, or who acts, changes: what is summed by step then lies on a few stretches, not on [N, T]."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from payoff.advantages.arrays import changes, positions, repeated
from payoff.trajectories import Trajectories

_ENTRIES = 1 << 18  # positions summed at a time, so that the temporaries of a large batch stay in the cache


class Stretches(NamedTuple):
    """The longest stretches of positions that lie in one row and one step, and that the policy acted on or did not; in order.

    begin: the flat number of its first position, row * T + position, and at the end N * T
    row, step, own: of its positions; step is -1 beyond the trajectory's end
    shape: (N, steps, T)
    """

    begin: Int[Tensor, " R1"]
    row: Int[Tensor, " R"]
    step: Int[Tensor, " R"]
    own: Bool[Tensor, " R"]
    shape: tuple[int, int, int]

    @property
    def size(self) -> Int[Tensor, " R"]:
        return self.begin.diff()

    def sums(self, x: Tensor) -> Float[Tensor, " R"]:
        """The sum of x [N, T] over each, float64: those of equal numbers are exact. What x is elsewhere does not matter."""
        n, _, width = self.shape
        flat, size = x.reshape(-1), self.size
        rows = torch.arange(0, n, max(1, _ENTRIES // max(width, 1)), device=x.device)
        cuts = torch.searchsorted(self.begin, rows * width).tolist()
        ends = [*cuts[1:], len(size)]
        parts = [
            torch.segment_reduce(flat[a:b].double(), "sum", lengths=size[i:j], unsafe=True)
            for i, j, (a, b) in zip(cuts, ends, _bounds(rows, width, n), strict=True)
        ]
        return torch.cat(parts) if parts else flat.double()

    def spread(self, x: Shaped[Tensor, " R"]) -> Shaped[Tensor, "N T"]:
        """Each one's number at all of its positions."""
        return repeated(x, self.size).view(self.shape[0], self.shape[2])

    def of_step(self, x: Shaped[Tensor, "N S"]) -> Shaped[Tensor, " R"]:
        """The number of each one's row and step; beyond the end that of step 0."""
        return x.reshape(-1).index_select(0, self._key)

    def by_step(
        self, x: Float[Tensor, " R"] | Int[Tensor, " R"], where: Bool[Tensor, " R"]
    ) -> Float[Tensor, "N S"] | Int[Tensor, "N S"]:
        """Sums over the stretches of each row's steps that count."""
        n, steps, _ = self.shape
        gathered = x.new_zeros(n * steps)
        return gathered.index_add_(0, self._key, torch.where(where, x, 0)).view(n, steps)

    def first_actions(self) -> Int[Tensor, "N S"]:
        """The position of the first action that the policy took in each step; T where it took none."""
        n, steps, width = self.shape
        first = self.begin.new_full((n * steps,), width)
        place = torch.where(self.own, self.begin[:-1] - self.row * width, width)
        return first.scatter_reduce_(0, self._key, place, "amin").view(n, steps)

    def last_positions(self) -> Int[Tensor, "N S"]:
        """The last position of each step; -1 where the row has no such step."""
        n, steps, width = self.shape
        last = self.begin.new_full((n * steps,), -1)
        place = torch.where(self.step >= 0, self.begin[1:] - 1 - self.row * width, -1)
        return last.scatter_reduce_(0, self._key, place, "amax").view(n, steps)

    @property
    def _key(self) -> Int[Tensor, " R"]:
        """The flat number of each one's row and step; what lies beyond the end is put with step 0, for the caller to leave out."""
        return self.row * self.shape[1] + self.step.clamp(min=0)


def stretches(traj: Trajectories) -> Stretches:
    """The stretches of these trajectories; steps may come in any order, and again.

    >>> from payoff.examples import four_answers
    >>> found = stretches(four_answers().replace(mask=torch.tensor([[1, 1, 0], [0, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()))
    >>> found.first_actions()
    tensor([[0, 1, 3],
            [3, 1, 3],
            [0, 1, 2],
            [0, 3, 3]])
    """
    n, width = traj.mask.shape
    step, own = traj.step.reshape(-1), traj.own.reshape(-1)
    begins = torch.ones(n * width + 1, dtype=torch.bool, device=traj.device)
    torch.bitwise_or(changes(step), own[1:] != own[:-1], out=begins[1:-1])
    begins[:-1].view(n, width)[:, 0] = True
    begin = positions(begins)
    at = begin[:-1]
    number = step.index_select(0, at).long()
    steps = int(number.max()) + 1 if len(number) else 1
    row = torch.div(at, max(width, 1), rounding_mode="floor")
    return Stretches(begin, row, number, own.index_select(0, at), (n, max(steps, 1), width))


def _bounds(rows: Int[Tensor, " B"], width: int, n: int) -> list[tuple[int, int]]:
    """Where each block of rows begins and ends, as flat positions."""
    starts = (rows * width).tolist()
    return list(zip(starts, [*starts[1:], n * width], strict=True))
