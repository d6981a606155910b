"""G-RA: do step rewards that count only once the outcome is reached help, where adding them outright misleads?

payoff reproduce g-ra
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from payoff.recipes import Effect, Recipe, expected, train_arm

PROMPTS, HORIZON, PAY = 4, 6, 0.1


def run(arm: str, seed: int, *, updates: int = 400) -> Mapping[str, float]:
    """A tabular policy looks for rare right answers while every step of one letter is paid; the final policy is judged exactly."""

    def terms(*channels: str) -> dict[str, Any]:
        paths = {channel: ["total"] for channel in channels}
        term = {"paths": paths, "then": ["grpo"], "loss": "ppo-clip", "aggregation": "sequence-mean-token-mean"}
        return {"policy": term}

    file = {
        "task": {"name": "tree", "vocabulary": 3, "horizon": HORIZON, "prompts": PROMPTS, "density": 0.02, "seed": seed},
        "policy": {"name": "tabular", "vocabulary": 3, "horizon": HORIZON, "starts": PROMPTS},
        "reward": {"correct": "tree-leaf", "step": {"name": "tree-filler", "filler": "a", "pay": PAY}},
        "arms": {
            "outcome": {"terms": terms("correct")},
            "direct": {"terms": terms("correct", "step")},
            "gated": {
                "terms": terms("correct", "step"),
                "shaping": [{"name": "g-ra", "by": "correct", "threshold": 0.5}],
            },
        },
        "train": {"updates": updates, "starts": 4, "rollouts": 8, "learning_rate": 0.03},
        "evaluate": {"every": 0, "starts": 0},
    }
    trained = train_arm(file, arm, seed)
    policy, task = trained.policy, trained.task
    return {"truth": expected(policy, task.leaves, PROMPTS), "step_reward": trained.end("reward/step")}


RECIPE = Recipe(
    name="g-ra",
    claim=(
        "Added outright to a sparse outcome, immediate step rewards are collected for their own sake while the outcome falls "
        "behind; counted only where the outcome was reached, they are not, and nothing of the outcome is lost."
    ),
    paper="arXiv:2508.10548",
    test=(
        f"{PROMPTS} prompts with 729 answers of {HORIZON} letters, 15 of them right. Every letter a is paid {PAY:g}, at most "
        f"{PAY * HORIZON:g} in all against 1 for a right answer, so that even added outright the best is a right answer. A tabular "
        "policy, uniform at first, learns by GRPO from four groups of eight per update; it is judged exactly. Not tested: agents "
        "with turns, more than one level of gates, and step rewards that would help to find the outcome."
    ),
    arms={
        "outcome": "1 for a right answer, nothing else",
        "direct": "the outcome plus the step rewards",
        "gated": "the outcome plus the step rewards of answers that are right",
    },
    measures={
        "truth": "probability of a right answer under the final policy (exact)",
        "step_reward": "step reward collected per training rollout (after gating), mean of the last ten updates",
    },
    effects=(
        Effect("truth", "gated", "direct", "higher", delta=0.05),
        Effect("truth", "gated", "outcome", "not lower", delta=0.05),
    ),
    run=run,
    methods=("shaping:g-ra", "advantage:grpo", "loss:ppo-clip", "task:tree", "grader:tree-filler"),
)
