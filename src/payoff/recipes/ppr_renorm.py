"""PPR's ReNorm: do judged turns added to an outcome make agents take more turns, and does centring both by one half prevent it?

payoff reproduce ppr-renorm
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from payoff.recipes import Effect, Recipe, train_arm
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, Rewards, Trajectories

PROMPTS, QUESTIONS, TURNS = 4, 4, 5  # an action is a question, a to d, or e: answer
ENOUGH = 2  # useful questions that make a right answer sure


def useful(prompt: int) -> str:
    """Two questions of every prompt tell something the first time they are asked."""
    return "abcd"[prompt % QUESTIONS] + "abcd"[(prompt + 1) % QUESTIONS]


def told(prompt: int, asked: str) -> list[bool]:
    """Whether each question told something."""
    return [letter in useful(prompt) and letter not in asked[:k] for k, letter in enumerate(asked)]


class Judge:
    """Scores every question: 1 if it tells something, else 0, each verdict turned round with a fixed chance; the answer gets 0.

    error: that chance; seed: of the verdicts, which are the same at every look at the same text
    """

    def __init__(self, error: float, seed: int) -> None:
        self.error, self.seed = error, seed

    def __call__(self, traj: Trajectories) -> Rewards:
        """The channel "process"."""
        paid = torch.zeros(traj.mask.shape)
        for row, item in enumerate(traj.items):
            asked = item["response"]
            for k, tells in enumerate(told(item["table"], asked)):
                draw = torch.Generator().manual_seed(hash((self.seed, item["table"], *map(ord, asked[: k + 1]))) % 2**62)
                wrong = bool(torch.rand((), generator=draw) < self.error)
                paid[row, k] = float(tells != wrong)
        return {"process": Channel(paid, torch.ones(len(traj), 1, dtype=torch.bool))}


def run(arm: str, seed: int, *, updates: int = 120, error: float = 0.2) -> Mapping[str, float]:
    """A tabular agent asks up to five questions and answers; the outcome is the chance that what it learned is enough."""
    shape: dict[str, Any] = {"vocabulary": QUESTIONS + 1, "horizon": TURNS, "stop": QUESTIONS}
    responses = Tree(**shape).responses
    worth = [{text: _chance(prompt, text) for text in responses} for prompt in range(PROMPTS)]
    judge = {"name": "payoff.recipes.ppr_renorm:Judge", "error": error, "seed": seed}
    paths: dict[str, dict[str, Any]] = {
        "outcome": {"correct": ["return-to-go"]},
        "raw": {"correct": ["return-to-go"], "process": ["return-to-go"]},
        "renorm": {"renorm": ["return-to-go"]},
    }
    term = {"paths": paths[arm], "then": [{"name": "rloo", "over": "step"}, "rms"], "loss": "ppo-clip", "aggregation": "token-mean"}
    file = {
        "task": {"name": "tree", **shape, "prompts": PROMPTS, "leaf_rewards": worth},
        "policy": {"name": "tabular", **shape, "starts": PROMPTS, "spread": 0.3, "seed": seed},
        "reward": {"correct": "tree-leaf", "process": judge},
        "shaping": ["ppr-renorm"] if arm == "renorm" else [],
        "terms": {"policy": term},
        "train": {"updates": updates, "starts": PROMPTS, "rollouts": 8, "learning_rate": 0.05},
        "evaluate": {"every": 0, "starts": 0},
    }
    _, policy, task = train_arm(file, arm="", seed=seed)
    truth = turns = 0.0
    for prompt in range(PROMPTS):
        chance = policy.probabilities(prompt).detach()
        truth += float(chance @ task.leaves(prompt)) / PROMPTS
        turns += float(chance @ policy.tree.length.double()) / PROMPTS
    return {"truth": truth, "turns": turns}


def _chance(prompt: int, asked: str) -> float:
    """A right answer: even odds between four without knowledge, between two with one fact, sure with both."""
    return {0: 0.25, 1: 0.5}.get(sum(told(prompt, asked)), 1.0)


RECIPE = Recipe(
    name="ppr-renorm",
    claim=(
        "Judged turns added to the outcome as they are make trajectories longer, since every turn pays; with both less one half, "
        "so that a turn earns only where judge and outcome agree, they do not, and the outcome is at least that of outcomes "
        "alone."
    ),
    paper="arXiv:2509.25598",
    test=(
        f"{PROMPTS} prompts, each a tabular agent that may ask four questions in up to {TURNS} turns and then answers. Two "
        "questions of each prompt tell something, once; the outcome is the chance of a right answer, 1/4, 1/2 or 1 with none, "
        "one or both told. A judge says of each turn whether it told something, and errs in one of five. Turns are a choice and "
        "a failed answer is possible at once. Policy gradients with leave-one-out baselines by step; judged exactly. The formula "
        "is our reconstruction. Not tested: a trained principle model, PPO with a critic, search with real text, and outcomes "
        "that are drawn."
    ),
    arms={
        "outcome": "the outcome alone",
        "raw": "the outcome and the judge's scores, added",
        "renorm": "scores and outcome less one half each, the outcome at the last turn",
    },
    measures={
        "truth": "chance of a right answer under the final policy (exact)",
        "turns": "turns of the final policy, the answer included, on average (exact); 3 are enough",
    },
    effects=(
        Effect("turns", "renorm", "raw", "lower", delta=0.25),
        Effect("truth", "renorm", "raw", "not lower", delta=0.05),
        Effect("truth", "renorm", "outcome", "not lower", delta=0.05),
    ),
    run=run,
    methods=("shaping:ppr-renorm", "credit:return-to-go", "advantage:rloo", "task:tree"),
)
