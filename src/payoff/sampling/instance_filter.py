"""Leaving out for good what the policy cannot do: starts of which no rollout ever succeeded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from payoff.catalogue import method
from payoff.pipeline import Start, Task
from payoff.sampling.candidates import draw_pool, visits
from payoff.trajectories import Rewards, Trajectories


@method("rif-rft", kind="curriculum", paper="arXiv:2507.05386")
class InstanceFilter(nn.Module):
    """The task's own starts, without those of which none of the first `trials` rollouts succeeded (RIF-RFT).

    by, threshold: the reward channel, and the outcome that a success must exceed
    trials:        rollouts with a verdict that a start is given; one success among them, and it stays for good
    pool:          starts drawn, at most, for each that is wanted

    The paper rolls every start out before training and then trains on those that are left. Here the trials are the first rollouts
    of training itself: where all of a group are paid the same nothing is learned from it, and nothing is sampled twice. With ever
    more trials exactly the starts of success rate 0 are left out. A policy that learns may come to solve what was left out, and is
    never asked again; `pass-rate-history` asks again.

    The first n starts are taken in the order in which the task draws them, each once; the same ones again where there are fewer,
    and what was left out where nothing else is drawn. Starts that belong together are chosen one by one.
    Metrics: rif-rft/starts, how many were ever tried; rif-rft/left_out.

    Raises ValueError for numbers below 1, KeyError for a channel nobody gives.

    >>> from payoff.tasks.tree import Tree
    >>> curriculum = InstanceFilter(trials=8)
    >>> curriculum.record = {"tree-0": (0, 8), "tree-1": (1, 40), "tree-2": (0, 4)}
    >>> sorted(start.id for start in curriculum(Tree(prompts=3), 2, torch.Generator().manual_seed(0)))
    ['tree-1', 'tree-2']
    """

    def __init__(self, *, by: str = "correct", threshold: float = 0.0, trials: int = 8, pool: int = 16) -> None:
        super().__init__()
        if trials < 1 or pool < 1:
            raise ValueError(f"rif-rft: trials and pool must be at least 1, got {trials} and {pool}")
        self.by, self.threshold, self.trials, self.pool = by, threshold, trials, pool
        self.record: dict[str, tuple[int, int]] = {}  # successes, rollouts

    def forward(self, task: Task, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts that may be solvable."""
        starts = list({start.id: start for start in draw_pool(task, n, self.pool, rng)}.values())
        kept = [start for start in starts if not self.left_out(start.id)] or starts
        return [kept[i % len(kept)] for i in range(n)]

    def left_out(self, id: str) -> bool:
        """Whether this start had its trials, and failed in all of them."""
        successes, rollouts = self.record.get(id, (0, 0))
        return successes == 0 and rollouts >= self.trials

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """Count the trials of the starts of these rollouts."""
        found = visits("rif-rft", traj, rewards, self.by, threshold=self.threshold)
        for id, known, total in zip(found.ids, found.known.tolist(), found.total.tolist(), strict=True):
            successes, rollouts = self.record.get(id, (0, 0))
            self.record[id] = (successes + int(total), rollouts + int(known))
        return {
            "rif-rft/starts": float(len(self.record)),
            "rif-rft/left_out": float(sum(map(self.left_out, self.record))),
        }

    def get_extra_state(self) -> dict[str, Any]:
        """The successes and rollouts of every start."""
        return {"record": dict(self.record)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.record = dict(state["record"])
