"""Curricula from what is remembered of every start: how often it was solved when it was last tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from payoff.catalogue import method
from payoff.pipeline import Start, Task
from payoff.sampling.candidates import draw_pool, visits
from payoff.trajectories import Rewards, Trajectories


class _PassRates(nn.Module):
    """Of every start that was tried, its pass rate and the update of its last trial."""

    def __init__(self, by: str, threshold: float, memory: float, pool: int) -> None:
        super().__init__()
        if not 0 <= memory < 1 or pool < 1:
            raise ValueError(f"{self._name}: memory must lie in [0, 1) and pool be at least 1, got {memory} and {pool}")
        self.by, self.threshold, self.memory, self.pool = by, threshold, memory, pool
        self.update = 0
        self.rates: dict[str, tuple[float, int]] = {}

    @property
    def _name(self) -> str:
        return type(self).__method__.name  # type: ignore[attr-defined]  # `method` gives it one

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """Remember the pass rates of the starts of these rollouts, those without any verdict left out."""
        self.update += 1
        found = visits(self._name, traj, rewards, self.by, threshold=self.threshold)
        rates = (found.total / found.known.clamp(min=1)).tolist()
        for id, rate, known in zip(found.ids, rates, found.known.tolist(), strict=True):
            if known:
                before = self.rates[id][0] if id in self.rates else rate
                self.rates[id] = (self.memory * before + (1 - self.memory) * rate, self.update)
        return {f"{self._name}/starts": float(len(self.rates)), **self._told()}

    def _told(self) -> Mapping[str, float | None]:
        return {}

    def get_extra_state(self) -> dict[str, Any]:
        """Everything that is remembered."""
        return {"update": self.update, "rates": dict(self.rates)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.update, self.rates = state["update"], dict(state["rates"])


@method("pass-rate-history", kind="curriculum")
class PassRateHistory(_PassRates):
    """The task's own starts, without those that were solved too often or too rarely, until it is time to try them again.

    A start rests for `retest` updates after a trial that left its pass rate at `low` or below, or at `high` or above.

    by:        the reward channel; an outcome above `threshold` is a success
    low, high: with 0 and 1 those starts rest of which all rollouts were a success, or none: they taught nothing
    retest:    updates; a start never rests for good, since the policy changes
    memory:    weight of what was remembered before against the newest pass rate; 0: the newest alone
    pool:      starts drawn, at most, for each that is wanted

    The first n that do not rest are taken, in the order in which the task draws them, each once. Where the pool has fewer, those
    that have rested longest fill up, and then the same ones again. Starts that belong together are chosen one by one.
    Metrics: pass-rate-history/starts, how many were ever tried; .../resting, how many of them rest now.

    Raises ValueError for low > high and numbers out of range, KeyError for a channel nobody gives.

    >>> from payoff.tasks.tree import Tree
    >>> curriculum = PassRateHistory(retest=10)
    >>> curriculum.rates = {"tree-0": (1.0, 0), "tree-1": (0.5, 0)}
    >>> sorted({start.id for start in curriculum(Tree(prompts=3), 2, torch.Generator().manual_seed(0))})
    ['tree-1', 'tree-2']
    """

    def __init__(
        self,
        *,
        by: str = "correct",
        threshold: float = 0.5,
        low: float = 0.0,
        high: float = 1.0,
        retest: int = 20,
        memory: float = 0.0,
        pool: int = 16,
    ) -> None:
        super().__init__(by, threshold, memory, pool)
        if low > high or retest < 0:
            raise ValueError(f"{self._name}: low must be at most high and retest at least 0, got {low}, {high} and {retest}")
        self.low, self.high, self.retest = low, high, retest

    def forward(self, task: Task, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts, those that do not rest first."""
        starts = list({start.id: start for start in draw_pool(task, n, self.pool, rng)}.values())
        resting = [start for start in starts if self.rests(start.id)]
        awake = [start for start in starts if not self.rests(start.id)]
        order = awake + sorted(resting, key=lambda start: self.rates[start.id][1])
        return [order[i % len(order)] for i in range(n)]

    def rests(self, id: str) -> bool:
        """Whether this start is left out now."""
        if id not in self.rates:
            return False
        rate, tried = self.rates[id]
        return not self.low < rate < self.high and self.update - tried < self.retest

    def _told(self) -> Mapping[str, float | None]:
        return {f"{self._name}/resting": float(sum(map(self.rests, self.rates)))}


@method("difficulty-pools", kind="curriculum")
class DifficultyPools(_PassRates):
    """A fixed share of the starts from those that were easy when last tried, a share from the hard ones, the rest from the others.

    easy, hard:             a start is easy at a pass rate of `easy` or more, hard at `hard` or less; one never tried is neither
    easy_share, hard_share: of the n starts, rounded to whole ones; what is not there is taken from the others
    by, threshold, memory, pool: as in `pass-rate-history`

    Shares above 0 keep trying what is solved, and what is not, now and then: forgetting and new abilities are noticed. With 0 a
    start that lands in the pool comes back only when nothing else is left.
    Metrics: difficulty-pools/starts, how many were ever tried; .../easy and .../hard, how many of them are.

    Raises ValueError for hard >= easy, shares below 0 or above 1 in all, and numbers out of range; KeyError for a channel that
    nobody gives.

    >>> from payoff.tasks.tree import Tree
    >>> curriculum = DifficultyPools(easy_share=0.0, hard_share=0.5)
    >>> curriculum.rates = {"tree-0": (1.0, 0), "tree-1": (0.0, 0)}
    >>> sorted(start.id for start in curriculum(Tree(prompts=3), 2, torch.Generator().manual_seed(0)))
    ['tree-1', 'tree-2']
    """

    def __init__(
        self,
        *,
        by: str = "correct",
        threshold: float = 0.5,
        easy: float = 0.8,
        hard: float = 0.2,
        easy_share: float = 0.1,
        hard_share: float = 0.1,
        memory: float = 0.0,
        pool: int = 16,
    ) -> None:
        super().__init__(by, threshold, memory, pool)
        if hard >= easy or min(easy_share, hard_share) < 0 or easy_share + hard_share > 1:
            raise ValueError(
                f"{self._name}: hard must be below easy, and the shares at least 0 and at most 1 together, "
                f"got {hard}, {easy}, {hard_share} and {easy_share}"
            )
        self.easy, self.hard, self.easy_share, self.hard_share = easy, hard, easy_share, hard_share

    def forward(self, task: Task, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts: the easy, then the hard, then the others."""
        starts = list({start.id: start for start in draw_pool(task, n, self.pool, rng)}.values())
        pools: dict[str, list[Start]] = {"easy": [], "hard": [], "other": []}
        for start in starts:
            pools[self.pool_of(start.id)].append(start)
        easy, hard = pools["easy"][: round(self.easy_share * n)], pools["hard"][: round(self.hard_share * n)]
        chosen = [*easy, *hard, *pools["other"][: n - len(easy) - len(hard)]]
        taken = {start.id for start in chosen}
        chosen += [start for start in starts if start.id not in taken][: n - len(chosen)]
        return [chosen[i % len(chosen)] for i in range(n)]

    def pool_of(self, id: str) -> str:
        """ "easy", "hard" or "other"."""
        rate = self.rates[id][0] if id in self.rates else (self.easy + self.hard) / 2
        return "easy" if rate >= self.easy else "hard" if rate <= self.hard else "other"

    def _told(self) -> Mapping[str, float | None]:
        pools = [self.pool_of(id) for id in self.rates]
        return {f"{self._name}/{name}": float(pools.count(name)) for name in ("easy", "hard")}
