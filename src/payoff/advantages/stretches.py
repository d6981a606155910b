"""Rows cut where the step, or who acts, changes: what is summed by step then lies on a few stretches, not on [N, T]."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from payoff.advantages.arrays import changes, placed, positions, repeated, same, summed
from payoff.trajectories import Trajectories


@dataclass(frozen=True)
class Stretches:
    """The longest stretches of positions that lie in one row and one step, and that the policy acted on or did not; in order.

    begin: the flat number of its first position, row * T + position, and at the end N * T
    row, step, own: of its positions; step is -1 beyond the trajectory's end
    shape: (N, steps, T)
    whole: the policy acted wherever there is a step
    """

    begin: Int[Tensor, " R1"]
    row: Int[Tensor, " R"]
    step: Int[Tensor, " R"]
    own: Bool[Tensor, " R"]
    shape: tuple[int, int, int]
    whole: bool

    @cached_property
    def size(self) -> Int[Tensor, " R"]:
        return self.begin.diff()

    def sums(self, x: Tensor) -> Float[Tensor, " R"]:
        """The sum of x [N, T] over each, float64: those of equal numbers are exact. What x is elsewhere does not matter."""
        return summed(x.reshape(-1), self.begin[:-1])

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
        """The flat number of the first action that the policy took in each step; -1 where it took none."""
        return self._placed(self.begin[:-1].flip(0), self.own.flip(0), self._key.flip(0))

    def last_positions(self) -> Int[Tensor, "N S"]:
        """The last position of each step; -1 where the row has no such step."""
        return self._placed(self.begin[1:] - 1 - self.row * self.shape[2], self.step >= 0, self._key)

    @cached_property
    def exists(self) -> Bool[Tensor, "N S"]:
        """Whether each row has a step of this number."""
        return self.acts if self.whole else self._any(self.step >= 0)

    @cached_property
    def acts(self) -> Bool[Tensor, "N S"]:
        """Whether the policy acted in each step."""
        return self._any(self.own)

    def _any(self, where: Bool[Tensor, " R"]) -> Bool[Tensor, "N S"]:
        n, steps, _ = self.shape
        found = torch.zeros(n * steps + 1, dtype=torch.bool, device=self.row.device)
        return found.index_fill_(0, torch.where(where, self._key, n * steps), True)[:-1].view(n, steps)

    def _placed(self, x: Int[Tensor, " R"], where: Bool[Tensor, " R"], key: Int[Tensor, " R"]) -> Int[Tensor, "N S"]:
        """The last of the numbers that count for each row and step; -1 where none does."""
        n, steps, _ = self.shape
        return placed(x, torch.where(where, key, n * steps), n * steps + 1, -1)[:-1].view(n, steps)

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
    tensor([[ 0,  1, -1],
            [-1,  4, -1],
            [ 6,  7,  8],
            [ 9, -1, -1]])
    """
    width, step, own = traj.width, traj.step.reshape(-1), traj.own.reshape(-1)
    whole = same(traj.own, traj.exists)
    begins = torch.empty(len(step), dtype=torch.bool, device=traj.device)
    changes(step, out=begins[1:])
    if not whole:
        begins[1:].bitwise_or_(changes(own))
    begins[::width] = True
    at = positions(begins)
    number = step.index_select(0, at).long()
    steps = int(number.max()) + 1 if len(number) else 1
    acted = number >= 0 if whole else own.index_select(0, at)
    row = torch.div(at, width, rounding_mode="floor")
    return Stretches(torch.cat([at, at.new_tensor([len(step)])]), row, number, acted, (len(traj), max(steps, 1), width), whole)
