"""PCL: does a learned guess of each prompt's difficulty save rollouts, against drawing evenly and against throwing away?

payoff reproduce pcl
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from payoff.pipeline import Evaluation, Start
from payoff.recipes import Effect, Recipe, train_arm
from payoff.trajectories import Channel, StopReason, Trajectories, fresh_ids, place_outcome

SKILLS, ENOUGH = 8, 0.8
LOSS = {"loss": "policy-gradient", "aggregation": "sequence-mean-token-sum"}


class Exercises:
    """A pool of exercises, each of one of eight skills and of a difficulty; a right answer is the action 1."""

    def __init__(self, *, pool: int = 3000, easiest: float = -4.0, hardest: float = 8.0, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.skill = torch.randint(SKILLS, (pool,), generator=rng)
        self.difficulty = easiest + (hardest - easiest) * torch.rand(pool, generator=rng, dtype=torch.float64)

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n exercises drawn evenly; fields: the skill as 0 and 1, and the difficulty in units of 4."""
        return [self._start(i) for i in torch.randint(len(self.skill), (n,), generator=rng).tolist()]

    def truth(self, traj: Trajectories) -> Channel:
        """1 for a right answer."""
        return place_outcome(traj.actions[:, 0].double(), torch.ones(len(traj), dtype=torch.bool), traj)

    def measure(self, policy: Any) -> Mapping[str, float]:
        """The exact mean chance of a right answer over the pool."""
        with torch.no_grad():
            return {"success": float((policy.ability[self.skill] - self.difficulty).sigmoid().mean())}

    def _start(self, i: int) -> Start:
        skill, difficulty = int(self.skill[i]), float(self.difficulty[i])
        return Start(f"exercise-{i}", {"skills": [float(k == skill) for k in range(SKILLS)], "difficulty": difficulty / 4})


class Answers(nn.Module):
    """One action: right with probability sigmoid(ability[skill] - difficulty), so that practice carries over within a skill."""

    offers: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.ability = nn.Parameter(torch.zeros(SKILLS, dtype=torch.float64))

    def rollout(self, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n answers to every start."""
        items = [{**start.fields, "start": start.id} for start in starts for _ in range(n)]
        right = torch.rand(len(items), generator=rng, dtype=torch.float64) < self._log_odds(items).detach().sigmoid()
        one = torch.ones(len(items), dtype=torch.int64)
        traj = Trajectories(
            mask=one[:, None] > 0,
            length=one,
            group=fresh_ids(len(starts)).repeat_interleave(n),
            step=torch.zeros(len(items), 1, dtype=torch.int32),
            stop=one * int(StopReason.finished),
            actions=right[:, None].long(),
            items=[{**item, "response": "right" if yes else "wrong"} for item, yes in zip(items, right.tolist(), strict=True)],
        )
        with torch.no_grad():
            return traj.replace(logp={"old": self.evaluate(traj).logp})

    def resume(self, traj: Trajectories, rows: Tensor, at: Tensor, n: int, rng: torch.Generator, **how: Any) -> Trajectories:
        """An answer is one action, so nothing is ever left half done: ValueError."""
        raise ValueError("an answer is one action, and cannot be continued")

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        """log-probability of every answer."""
        odds = self._log_odds(traj.items)
        return Evaluation(nn.functional.logsigmoid(torch.where(traj.actions[:, 0] == 1, odds, -odds))[:, None], {})

    def _log_odds(self, items: Sequence[Mapping[str, Any]]) -> Tensor:
        skills = torch.tensor([item["skills"] for item in items], dtype=torch.float64)
        return skills @ self.ability - 4 * torch.tensor([item["difficulty"] for item in items], dtype=torch.float64)


def right(response: str) -> float:
    """1 for a right answer."""
    return float(response == "right")


def practise(arm: Mapping[str, Any], seed: int, pool: int, updates: int, learning_rate: float, rounds: int = 1) -> Any:
    """A run on these exercises: sixteen starts of eight rollouts an update, judged exactly after each."""
    file = {
        "task": {"name": "payoff.recipes.pcl:Exercises", "pool": pool, "seed": seed},
        "policy": "payoff.recipes.pcl:Answers",
        "reward": {"correct": "payoff.recipes.pcl:right"},
        "terms": {"policy": {"paths": {"correct": ["total", "dr-grpo"]}, **LOSS}},
        "train": {"updates": updates, "starts": 16, "rollouts": 8, "rounds": rounds, "learning_rate": learning_rate},
        "evaluate": {"every": 1, "starts": 1},
        **arm,
    }
    return train_arm(file, "", seed)


def rollouts_until(history: Sequence[Mapping[str, Any]], level: float = ENOUGH) -> float:
    """Thousands of rollouts after which the mean success was first at the level; all of them where it never was."""
    counts = [line["rollouts"] for line in history if line["truth/success"] >= level]
    return (counts[0] if counts else history[-1]["rollouts"]) / 1000


ARMS: Mapping[str, Mapping[str, Any]] = {
    "even": {},
    "dynamic": {"selection": [{"name": "drop-equal-groups", "by": "correct"}]},
    "history": {"curriculum": "pass-rate-history"},
    "pcl": {"curriculum": {"name": "pcl", "features": ["skills", "difficulty"], "learning_rate": 0.01, "steps": 4}},
}


def run(arm: str, seed: int, *, updates: int = 220, learning_rate: float = 0.05) -> Mapping[str, float]:
    """A policy with one ability for each skill; every arm until `updates` updates are over."""
    history = practise(ARMS[arm], seed, 3000, updates, learning_rate, 10 if arm == "dynamic" else 1).history
    until = next((line["update"] for line in history if line["truth/success"] >= ENOUGH), updates)
    useful = [1 - line["zero_spread"] for line in history[1 : until + 1]]
    return {"rollouts": rollouts_until(history), "updates": float(until), "useful": math.fsum(useful) / len(useful)}


RECIPE = Recipe(
    name="pcl",
    claim=(
        "Choosing prompts whose reward a model trained on the way predicts to be near one half reaches a level of success with "
        "fewer rollouts than prompts drawn evenly, and than sampling until enough groups differ (dynamic sampling)."
    ),
    paper="arXiv:2510.01135",
    test=(
        f"3000 exercises of {SKILLS} skills, with difficulties spread evenly over twelve units of log-odds; an answer is right "
        "with probability sigmoid(ability of its skill - difficulty), and the abilities learn by policy gradient, 16 exercises of "
        "8 rollouts an update, rewards centred in their groups, the same Adam in every arm. The predictor reads skill and "
        "difficulty and sees rewards only. Success is judged exactly after every update. Learning rates were not tuned by arm. Not "
        "tested: language models, where the predictor is a model of the policy's size, and the time that generating takes."
    ),
    arms={
        "even": "exercises drawn evenly",
        "dynamic": "exercises drawn evenly, up to 10 rounds of rollouts until 16 groups differ in their rewards",
        "history": "exercises that were solved by all rollouts, or by none, when last tried rest for 20 updates",
        "pcl": "of 64 exercises the 16 whose predicted reward is nearest to one half",
    },
    measures={
        "rollouts": f"thousands of rollouts until the mean success is {ENOUGH:g} (exact success)",
        "updates": "updates until then",
        "useful": "share of the groups of rollouts, until then, whose rewards differ",
    },
    effects=(
        Effect("rollouts", "pcl", "even", "lower", delta=1.0),
        Effect("rollouts", "pcl", "dynamic", "lower", delta=1.0),
    ),
    run=run,
    methods=("curriculum:pcl", "curriculum:pass-rate-history", "selection:drop-equal-groups", "advantage:dr-grpo"),
)
