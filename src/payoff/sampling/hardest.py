"""Training on the hardest examples of a pool: those whose first answers, one each, are scored lowest (BLEUBERI)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from payoff.catalogue import find, method
from payoff.pipeline import Start, Task
from payoff.sampling.guided_attempts import score_of
from payoff.trajectories import Rewards, Trajectories

_DRAWN = 64  # starts at a time


@method("bleuberi", kind="curriculum", paper="arXiv:2505.11080")
class Hardest(nn.Module):
    """Of a pool of `pool` starts the `keep` of lowest score, each answered once by the policy as it begins (BLEUBERI's choice).

    scorer: a grader of one answer, by its registered name or as a function
    batch:  starts that are answered at a time
    seed:   the pool and the answers; a resumed run draws the same pool

    At the first update the pool is drawn and answered, which costs `pool` rollouts that no update uses; from then on the n that are
    wanted come in turn, in the order of the pool, round and round. Of equal scores the start that was drawn first counts as harder.
    A start without verdict is left out; where fewer than `keep` have one, those that have. What is hardest for one answer is often
    hard by chance, or wrong in the data: `keep` well below `pool`, and look at what it chose (`chosen`).

    Metrics: bleuberi/starts, how many are kept; bleuberi/score, the mean first score of these; bleuberi/pool_score, of all.
    Raises ValueError for numbers out of range and where no start of the pool has a verdict.

    >>> from payoff.tasks.tree import Tree
    >>> by_number = lambda start: float(start.removeprefix("tree-"))
    >>> hardest = Hardest(policy=find("tabular", "policy")(2, 2), scorer=by_number, pool=5, keep=2)
    >>> sorted({start.id for start in hardest(Tree(prompts=5), 4, torch.Generator())}), hardest.scores["tree-4"]
    (['tree-0', 'tree-1'], 4.0)
    """

    def __init__(
        self,
        *,
        policy: Any,
        scorer: str | Callable[..., Any] = "bleuberi",
        pool: int = 50_000,
        keep: int = 5000,
        batch: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 1 <= keep <= pool or batch < 1:
            raise ValueError(f"bleuberi: 1 <= keep <= pool and batch >= 1 are needed, got {keep}, {pool} and {batch}")
        self.scorer = find(scorer, "grader") if isinstance(scorer, str) else scorer
        self.pool, self.keep, self.batch, self.seed = pool, keep, batch, seed
        self.scores: dict[str, float | None] = {}  # of every start of the pool
        self.given = 0
        self._first = [policy]  # in a list: no weights of this part's own; let go once everything is answered
        self._kept: list[Start] = []

    def forward(self, task: Task, n: int, rng: torch.Generator) -> Sequence[Start]:
        """The next n of the kept starts."""
        if not self._kept:
            self._choose(task)
        self.given += n
        return [self._kept[k % len(self._kept)] for k in range(self.given - n, self.given)]

    def chosen(self) -> list[str]:
        """The ids of the starts that are kept, the hardest first."""
        known = [(score, id) for id, score in self.scores.items() if score is not None]
        return [id for _, id in sorted(known, key=lambda of: of[0])[: self.keep]]

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """Nothing: the choice is made once."""
        found = [score for score in self.scores.values() if score is not None]
        kept = [self.scores[id] or 0.0 for id in self.chosen()]
        mean = lambda of: sum(of) / len(of) if of else None
        return {"bleuberi/starts": float(len(kept)), "bleuberi/score": mean(kept), "bleuberi/pool_score": mean(found)}

    def get_extra_state(self) -> dict[str, Any]:
        """The scores, and how many starts were given."""
        return {"scores": dict(self.scores), "given": self.given}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.scores, self.given, self._kept = dict(state["scores"]), state["given"], []

    @torch.no_grad()
    def _choose(self, task: Task) -> None:
        """Draw the pool, have it answered where no scores are there yet, and keep the hardest."""
        rng = torch.Generator().manual_seed(self.seed)
        starts: dict[str, Start] = {}
        fresh = True
        while fresh and len(starts) < self.pool:
            before = len(starts)
            for start in task.starts(max(_DRAWN, self.pool - len(starts)), rng):
                starts.setdefault(start.id, start)
            fresh = len(starts) > before
        drawn = list(starts.values())[: self.pool]
        for k in range(0, 0 if self.scores else len(drawn), self.batch):
            answers = self._first[0].rollout(drawn[k : k + self.batch], 1, rng)
            self.scores |= {item["start"]: score_of(self.scorer, item)[0] for item in answers.items}
        self._first.clear()
        wanted = set(self.chosen())
        self._kept = [start for start in drawn if start.id in wanted]
        if not self._kept:
            raise ValueError("bleuberi: no start of the pool has a verdict, or the task no longer draws those that were chosen")
