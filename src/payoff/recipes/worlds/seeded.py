"""Control worlds small enough to be stepped as arrays: every start is a seed, and starts of one task share their lanes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from payoff.pipeline import Start
from payoff.policies.control import Lanes
from payoff.trajectories import Channel, Trajectories, place_outcome

HELD_OUT = 2**20  # seeds from here on are never trained on


class SharedLanes:
    """Where the lanes come from: `make(count)` once for every count."""

    def __init__(self, make: Callable[[int], Lanes]) -> None:
        self.make, self.ready = make, dict[int, Lanes]()

    def lanes(self, count: int) -> Lanes:
        """`count` episodes side by side."""
        if count not in self.ready:
            self.ready[count] = self.make(count)
        return self.ready[count]


class Episode:
    """A start's environment: a seed in a world."""

    def __init__(self, world: SharedLanes, seed: int) -> None:
        self.world, self.seed = world, seed

    def lanes(self, count: int) -> Lanes:
        """Lanes of the world."""
        return self.world.lanes(count)


class SeededTask:
    """A task whose starts are seeds of one world; the truth is what the world pays in an episode, over `per`."""

    def __init__(self, name: str, make: Callable[[int], Lanes], *, per: float = 1.0) -> None:
        self.name, self.world, self.per = name, SharedLanes(make), per

    def starts(self, n: int, rng: torch.Generator) -> list[Start]:
        """n seeds at random."""
        return [self._start(seed) for seed in torch.randint(HELD_OUT, (n,), generator=rng).tolist()]

    def held_out_starts(self, n: int) -> list[Start]:
        """Seeds that are never trained on."""
        return [self._start(HELD_OUT + i) for i in range(n)]

    def truth(self, traj: Trajectories) -> Channel:
        """What the world paid."""
        paid = torch.where(traj.exists, traj.extras["environment_reward"], 0).sum(1) / self.per
        return place_outcome(paid, torch.ones_like(paid, dtype=torch.bool), traj)

    def _start(self, seed: int) -> Start:
        environment: Any = Episode(self.world, seed)
        return Start(f"{self.name}-{seed}", {"prompt": f"{self.name} from {seed}", "seed": seed}, environment)
