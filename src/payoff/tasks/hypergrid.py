"""The hypergrid: walk from the corner of a grid along its axes, stop anywhere, be paid for where one stops.

The standard task for samplers that should end in proportion to a reward: few peaks at the far corners of a wide, poor middle.
Small enough that the distribution of what a policy ends with is known exactly.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Start
from payoff.trajectories import Channel, StopReason, Trajectories, place_outcome

_EDGE = 1e-12  # grid points on the border of a band belong to neither side, whatever the rounding
_SHOWN = 4096  # states up to which the report shows a distribution


@method("hypergrid", kind="task", paper="arXiv:2106.04399")
@dataclass(frozen=True)
class Hypergrid:
    """Cells of a grid with `side` values along each of `dimensions` axes; action d adds one along axis d, the last one stops.

    reward:   with x = |cell / (side - 1) - 1/2| along each axis,
              "original": base + plateau prod_d 1[x > 1/4] + peak prod_d 1[3/10 < x < 4/10]: 2^D peaks near the corners
              "cosine":   base + plateau prod_d (cos(50 x) + 1) N(5 x), N the density of a standard normal: many local peaks
              "flat":     base everywhere
    truth_of: "reward": what the cell is paid; "mode": whether it is a peak (reward base + plateau + peak)

    Raises ValueError for sizes below 1 (side below 2) and numbers that make a reward 0 or negative.

    >>> task = Hypergrid(dimensions=2, side=8)
    >>> task.actions, task.longest, task.state_count
    (3, 15, 64)
    >>> task.log_reward(torch.tensor([[0, 0], [1, 1], [3, 3]])).exp()
    tensor([0.6000, 2.6000, 0.1000], dtype=torch.float64)
    """

    dimensions: int = 2
    side: int = 8
    reward: Literal["original", "cosine", "flat"] = "original"
    base: float = 0.1
    plateau: float = 0.5
    peak: float = 2.0
    truth_of: Literal["reward", "mode"] = "reward"

    def __post_init__(self) -> None:
        for name, size, least in (("dimensions", self.dimensions, 1), ("side", self.side, 2)):
            if size < least:
                raise ValueError(f"hypergrid: {name} must be at least {least}, got {size}")
        if self.reward not in ("original", "cosine", "flat"):
            raise ValueError(f'hypergrid: reward must be "original", "cosine" or "flat", got {self.reward!r}')
        if self.truth_of not in ("reward", "mode"):
            raise ValueError(f'hypergrid: truth_of must be "reward" or "mode", got {self.truth_of!r}')
        if not self.base > 0 or self.plateau < 0 or self.peak < 0:
            raise ValueError(
                "hypergrid: base must be > 0, plateau and peak at least 0, so that every reward has a logarithm; "
                f"got {self.base}, {self.plateau}, {self.peak}"
            )

    # --- as a construction

    @property
    def actions(self) -> int:
        """One along each axis, and the stop."""
        return self.dimensions + 1

    @property
    def width(self) -> int:
        """Numbers in a state: the coordinates."""
        return self.dimensions

    @property
    def longest(self) -> int:
        """To the far corner, and the stop."""
        return self.dimensions * (self.side - 1) + 1

    @property
    def feature_count(self) -> int:
        """One-hot coordinates."""
        return self.dimensions * self.side

    @property
    def state_count(self) -> int:
        """Cells."""
        return self.side**self.dimensions

    @property
    def stop(self) -> int:
        """The last action."""
        return self.dimensions

    def initial(self, n: int) -> Int[Tensor, "n D"]:
        """The corner where everything begins."""
        return torch.zeros(n, self.dimensions, dtype=torch.int64)

    def legal(self, states: Int[Tensor, "*shape D"]) -> Bool[Tensor, "*shape K"]:
        """Along every axis that goes on, and stopping always."""
        return torch.nn.functional.pad(states < self.side - 1, (0, 1), value=True)

    def parents(self, states: Int[Tensor, "*shape D"]) -> Bool[Tensor, "*shape K"]:
        """Back along every axis that is not at its beginning."""
        return torch.nn.functional.pad(states > 0, (0, 1))

    def after(self, states: Int[Tensor, "*shape D"], actions: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape D"]:
        """One cell on; a stop stays."""
        return states + self._move(states, actions)

    def before(self, states: Int[Tensor, "*shape D"], actions: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape D"]:
        """One cell back."""
        return states - self._move(states, actions)

    def complete(self, states: Int[Tensor, "*shape D"]) -> Bool[Tensor, "*shape"]:
        """Nowhere: only the stop action ends."""
        return torch.zeros_like(states[..., 0], dtype=torch.bool)

    def depth(self, states: Int[Tensor, "*shape D"]) -> Int[Tensor, "*shape"]:
        """Steps from the corner."""
        return states.sum(-1)

    def features(self, states: Int[Tensor, "*shape D"]) -> Float[Tensor, "*shape F"]:
        """Each coordinate one-hot."""
        return _rows_of_one(self.side, self.side, torch.get_default_dtype(), states.device)[states].flatten(-2)

    def log_reward(self, states: Int[Tensor, "*shape D"]) -> Float[Tensor, "*shape"]:
        """log of what stopping here pays; every cell has a reward, so every prefix of a walk has."""
        x = (states.double() / (self.side - 1) - 0.5).abs()
        if self.reward == "cosine":
            density = (-12.5 * x.square()).exp() / math.sqrt(2 * math.pi)
            return (self.base + self.plateau * ((50 * x).cos().add(1) * density).prod(-1)).log()
        if self.reward == "flat":
            return torch.full_like(x[..., 0], math.log(self.base))
        outer = (x > 0.25 + _EDGE).all(-1)
        band = ((x > 0.3 + _EDGE) & (x < 0.4 - _EDGE)).all(-1)
        return (self.base + self.plateau * outer.double() + self.peak * band.double()).log()

    def index(self, states: Int[Tensor, "*shape D"]) -> Int[Tensor, "*shape"]:
        """Coordinates as the digits of a number, the first axis the slowest."""
        return (states * self._place(states)).sum(-1)

    def state(self, index: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape D"]:
        """The coordinates of a numbered cell."""
        return index[..., None] // self._place(index) % self.side

    def written(self, state: list[int]) -> str:
        """The coordinates."""
        return f"({', '.join(str(x) for x in state)})"

    def action_name(self, action: int) -> str:
        """`+0` along the first axis; `stop`."""
        return "stop" if action == self.stop else f"+{action}"

    # --- as a task

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts, all at the corner."""
        return [Start("hypergrid", {"prompt": self.written([0] * self.dimensions)}) for _ in range(n)]

    def held_out_starts(self, n: int | None = None) -> Sequence[Start]:
        """The same corner; the policy answers by itself there, without exploring."""
        fields = {"prompt": self.written([0] * self.dimensions), "explore": False}
        return [Start("hypergrid", fields) for _ in range(1 if n is None else n)]

    def truth(self, traj: Trajectories) -> Channel:
        """The reward of the cell where each walk stopped (or whether it is a mode); unknown for a walk that was cut short."""
        last = traj.extras["states"][torch.arange(len(traj)), traj.length]
        worth = self.log_reward(last).exp() if self.truth_of == "reward" else self.modes(last).double()
        finished = traj.stop == StopReason.finished
        cut = {} if finished.all() else dict.fromkeys(traj.id[~finished].tolist(), "did not stop anywhere")
        return place_outcome(worth, finished, traj, cut)

    def modes(self, states: Int[Tensor, "*shape D"]) -> Bool[Tensor, "*shape"]:
        """Which cells are paid all three parts of the original reward (none, where the grid is too coarse to have one)."""
        return self.log_reward(states) >= math.log(self.base + self.plateau + self.peak) - 1e-9

    def measure(self, policy: Any) -> Mapping[str, float]:
        """How far what the policy ends with is from R / Z: {"l1": sum |p - R / Z|, "modes": the mass of p on modes}, exactly.

        Empty for a policy that has no `object_distribution`. The numbers are those of all cells, not of a sample.
        """
        if not hasattr(policy, "object_distribution"):
            return {}
        with torch.no_grad():
            p = policy.object_distribution().double()
        cells = self.state(torch.arange(self.state_count))
        wanted = self.log_reward(cells).softmax(0)
        return {"l1": float((p - wanted).abs().sum()), "modes": float(p[self.modes(cells)].sum())}

    def overview(self, traj: Trajectories, policy: Any) -> dict[str, Any] | None:
        """Where the policy ends and where it should, R / Z, for the report; summed over all axes but the first two."""
        found = ended_and_wanted(self, traj, policy)
        if found is None or self.dimensions == 1:
            return found and pair_of_distributions(*found)
        learned, wanted = (p.reshape(self.side**2, -1).sum(1) for p in found)
        return {**pair_of_distributions(learned, wanted), "shape": [self.side, self.side]}

    def _move(self, states: Tensor, actions: Tensor) -> Tensor:
        return _rows_of_one(self.actions, self.dimensions, states.dtype, states.device)[actions]

    def _place(self, like: Tensor) -> Tensor:
        return _place_values(self.side, self.dimensions, like.device)


def ended_and_wanted(space: Any, traj: Trajectories, policy: Any) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]] | None:
    """The probability that an object is each state, and the one in proportion to the reward (0 where a state is no object).

    Exactly, from a policy that knows its `object_distribution`; of the finished trajectories of the batch, for any other. None for
    more states than a picture shows.
    """
    if space.state_count > _SHOWN:
        return None
    states = space.state(torch.arange(space.state_count))
    whole = space.complete(states) if space.stop is None else torch.ones(space.state_count, dtype=torch.bool)
    wanted = torch.where(whole, space.log_reward(states), -torch.inf).softmax(0)
    if hasattr(policy, "object_distribution"):
        with torch.no_grad():
            return policy.object_distribution().double().cpu(), wanted
    last = traj.extras["states"][torch.arange(len(traj)), traj.length][traj.stop == StopReason.finished].cpu()
    counts = torch.bincount(space.index(last), minlength=space.state_count).double()
    return counts / counts.sum().clamp(min=1), wanted


def pair_of_distributions(learned: Float[Tensor, " S"], wanted: Float[Tensor, " S"]) -> dict[str, Any]:
    """Both as a picture of the report: plain numbers."""
    plain = lambda p: [float(f"{x:.5g}") for x in p.tolist()]
    return {"kind": "distributions", "learned": plain(learned), "true": plain(wanted)}


@functools.cache
def _place_values(side: int, dimensions: int, device: torch.device) -> Tensor:
    """What each digit of a cell's number counts for, the last one 1."""
    return side ** torch.arange(dimensions - 1, -1, -1, device=device)


@functools.cache
def _rows_of_one(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Row i has a 1 at i and zeros elsewhere; rows beyond the columns are 0."""
    return torch.eye(rows, columns, dtype=dtype, device=device)
