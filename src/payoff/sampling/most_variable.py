"""Training on one prompt, or a few: those whose accuracy moved most while a first run trained on all (one-shot RLVR)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from payoff.catalogue import method
from payoff.pipeline import Start, Task
from payoff.sampling.candidates import visits
from payoff.trajectories import Rewards, Trajectories


def accuracy_spread(history: Sequence[float]) -> float:
    """The standard deviation of a prompt's accuracies over a run, the population's: what one-shot RLVR ranks prompts by.

    0 for a constant history, and for one of fewer than two; for accuracies of 0 and 1 with mean m it is sqrt(m (1 - m)).

    >>> accuracy_spread([0.0, 1.0, 1.0, 0.0]), accuracy_spread([0.5, 0.5])
    (0.5, 0.0)
    """
    if len(history) < 2:
        return 0.0
    return float(torch.tensor(list(history), dtype=torch.float64).std(unbiased=False))


@method("one-shot-rlvr", kind="curriculum", paper="arXiv:2504.20571")
class MostVariable(nn.Module):
    """All starts of the task for `warmup` updates, then for good the `keep` whose accuracy varied most (one-shot RLVR).

    by, threshold: the reward channel; an outcome above `threshold` is right, and a start's accuracy that share of its rollouts
    warmup:        updates on the task as it is, at each of which the accuracies of its starts are noted
    keep:          starts that are kept; the n that are wanted repeat them in turn, as many copies of one prompt fill a batch

    The paper ranks by a whole run on all prompts and then trains anew, from the first weights, on the best one: so run twice, and
    give the second run as `chosen` the first ids that `ranked` lists in the first. Among equals the one that was met first. A
    prompt that is solved throughout has spread 0, and no policy gradient either; beside the outcome the paper adds an entropy bonus
    (`entropy-bonus`, 0.001). Much of what one prompt gives is form: compare with `format-surrogate`.

    Metrics: one-shot-rlvr/starts, how many have a history; .../spread, the largest there is. Raises ValueError for numbers out of
    range, KeyError for a channel that nobody gives, and ValueError where a chosen start does not come in the task's first 4096.

    >>> from payoff.tasks.tree import Tree
    >>> curriculum = MostVariable(warmup=0)
    >>> curriculum.accuracies = {"tree-0": [1.0, 1.0], "tree-1": [0.0, 1.0]}
    >>> [start.id for start in curriculum(Tree(prompts=3), 2, torch.Generator().manual_seed(0))]
    ['tree-1', 'tree-1']
    """

    def __init__(
        self,
        *,
        by: str = "correct",
        threshold: float = 0.5,
        warmup: int = 100,
        keep: int = 1,
        chosen: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if warmup < 0 or keep < 1:
            raise ValueError(f"one-shot-rlvr: warmup must be at least 0 and keep at least 1, got {warmup} and {keep}")
        self.by, self.threshold, self.warmup, self.keep, self.chosen = by, threshold, warmup, keep, list(chosen)
        self.update = 0
        self.accuracies: dict[str, list[float]] = {}
        self._kept: dict[str, Start] = {}

    def forward(self, task: Task, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts: the task's own, then the kept ones in turn."""
        wanted = self.chosen or self.ranked()[: self.keep]
        if not wanted or (self.update < self.warmup and not self.chosen):
            return task.starts(n, rng)
        drawn = 0
        while lost := [id for id in wanted if id not in self._kept]:
            if drawn >= 4096:
                raise ValueError(f"one-shot-rlvr: the start {lost[0]!r} does not come among the task's first {drawn}")
            more = task.starts(64, rng)
            drawn += 64
            self._kept |= {start.id: start for start in more if start.id in wanted}
        return [self._kept[wanted[k % len(wanted)]] for k in range(n)]

    def ranked(self) -> list[str]:
        """The ids of the starts that have a history, those that varied most first."""
        return sorted(self.accuracies, key=lambda id: -accuracy_spread(self.accuracies[id]))

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """Note the accuracies of the starts of these rollouts, while the warm-up lasts."""
        self.update += 1
        if self.update <= self.warmup and not self.chosen:
            found = visits("one-shot-rlvr", traj, rewards, self.by, threshold=self.threshold)
            for id, right, known in zip(found.ids, found.total.tolist(), found.known.tolist(), strict=True):
                if known:
                    self.accuracies.setdefault(id, []).append(right / known)
        spread = max((accuracy_spread(history) for history in self.accuracies.values()), default=0.0)
        return {"one-shot-rlvr/starts": float(len(self.accuracies)), "one-shot-rlvr/spread": spread}

    def get_extra_state(self) -> dict[str, Any]:
        """Everything that is remembered."""
        return {"update": self.update, "accuracies": {id: list(history) for id, history in self.accuracies.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.update, self.accuracies, self._kept = state["update"], dict(state["accuracies"]), {}
