"""Rows cut where the step, or who acts, changes: what is summed by step then lies on a few stretches, not on [N, T]."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from payoff.advantages.arrays import blocks, changes, placed, positions, repeated, some, summed, unlike
from payoff.trajectories import Trajectories


@dataclass(frozen=True)
class Stretches:
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

    @cached_property
    def size(self) -> Int[Tensor, " R"]:
        return self.begin.diff()

    def sums(self, x: Tensor) -> Float[Tensor, " R"]:
        """The sum of x [N, T] over each, float64: those of equal numbers are exact. What x is elsewhere does not matter."""
        part = [(rows, self._of(rows)) for rows in blocks(x)]
        begin = lambda at: self.begin[at] - self.begin[at.start]
        return torch.cat([summed(x[rows].double().reshape(-1), begin(at)) for rows, at in part])

    def spread(self, x: Shaped[Tensor, " R"], rows: slice = slice(None)) -> Shaped[Tensor, "n T"]:
        """Each one's number at all of its positions, in these rows."""
        at = self._of(rows)
        return repeated(x[at], self.size[at]).view(-1, self.shape[2])

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
        place = self.begin[:-1] - self.row * self.shape[2]
        return self._placed(place.flip(0), self.own.flip(0), self._key.flip(0), self.shape[2])

    def last_positions(self) -> Int[Tensor, "N S"]:
        """The last position of each step; -1 where the row has no such step."""
        return self._placed(self.begin[1:] - 1 - self.row * self.shape[2], self.step >= 0, self._key, -1)

    def _placed(self, x: Int[Tensor, " R"], where: Bool[Tensor, " R"], key: Int[Tensor, " R"], fill: int) -> Int[Tensor, "N S"]:
        """The last of the numbers that count for each row and step."""
        n, steps, _ = self.shape
        return placed(x, torch.where(where, key, n * steps), n * steps + 1, fill)[:-1].view(n, steps)

    def _of(self, rows: slice) -> slice:
        """The stretches of these rows."""
        start, stop, _ = rows.indices(self.shape[0])
        bounds = self.begin.new_tensor([start, stop]) * self.shape[2]
        return slice(*torch.searchsorted(self.begin, bounds).tolist())

    @cached_property
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
    everywhere = not some(unlike(traj.own, traj.exists))  # the policy acted wherever there is a step
    begins = torch.ones(n * width + 1, dtype=torch.bool, device=traj.device)
    changes(step, out=begins[1:-1])
    if not everywhere:
        begins[1:-1].bitwise_or_(changes(own))
    begins[:-1].view(n, width)[:, 0] = True
    begin = positions(begins)
    at = begin[:-1]
    number = step.index_select(0, at).long()
    steps = int(number.max()) + 1 if len(number) else 1
    row = torch.div(at, max(width, 1), rounding_mode="floor")
    acted = number >= 0 if everywhere else own.index_select(0, at)
    return Stretches(begin, row, number, acted, (n, max(steps, 1), width))
