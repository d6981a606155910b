"""Clip-Delta: does bounding and differencing step scores keep a policy from writing steps for their own sake?

payoff reproduce pr-clip-delta
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from payoff.recipes import Effect, Recipe, train_arm

ANSWER = {"correct": ["total", "rloo"]}


def term(paths: Mapping[str, Any]) -> dict[str, Any]:
    return {"policy": {"paths": paths, "then": ["rms"], "loss": "ppo-clip", "aggregation": "token-mean"}}


def run(arm: str, seed: int, *, updates: int = 100, held_out: int = 256) -> Mapping[str, float]:
    """The shipped transformer trains on chained arithmetic; `clip-delta` and `sum` differ in one shaping and nothing else."""
    credit = ["return-to-go", {"name": "rloo", "over": "step"}]
    file = {
        "task": {"name": "chain", "terms": 6},
        "policy": {"name": "transformer", "checkpoint": "chain", "max_tokens": 72, "stop": ["."], "step_separator": ";"},
        "reward": {"correct": "chain-answer", "process": "chain-steps"},
        "arms": {
            "outcome": {"terms": term(ANSWER), "reward": {"correct": "chain-answer"}},
            "sum": {"terms": term({**ANSWER, "process": credit})},
            "clip-delta": {"terms": term({**ANSWER, "process": [{"name": "pr-clip-delta", "threshold": 0.5}, *credit]})},
        },
        "train": {"updates": updates, "starts": 4, "rollouts": 4, "learning_rate": 2e-4},
        "evaluate": {"every": 0, "starts": held_out},
    }
    trained = train_arm(file, arm, seed)
    return {"truth": trained.last("truth"), "steps": trained.end("steps"), "reward": trained.end("reward")}


RECIPE = Recipe(
    name="pr-clip-delta",
    claim=(
        "Added to a success reward, raw step scores make a policy repeat empty steps until its accuracy collapses; clipped above "
        "and differenced, the same scores cost no accuracy against the success reward alone."
    ),
    paper="arXiv:2410.15115",
    test=(
        "Chained arithmetic with a small pretrained transformer and a rule as step grader, which pays 1 for any step that is "
        "arithmetically right, needed or not, and 0 for any other; threshold 0.5, weight 1, policy gradients with leave-one-out "
        "baselines in place of PPO with a critic. Not tested: a learned step grader, and the small gain over success alone."
    ),
    arms={
        "outcome": "the answer alone",
        "sum": "the answer, plus the raw step scores, each step credited with all that follow",
        "clip-delta": "the answer, plus the same step scores clipped above at 0.5 and differenced",
    },
    measures={
        "truth": "share of 256 held-out prompts answered rightly at the end, one sampled rollout each",
        "steps": "steps and answer per training rollout, mean of the last ten updates (6 are needed, 12 fit)",
        "reward": "the arm's own reward per training rollout, mean of the last ten updates",
    },
    effects=(
        Effect("truth", "clip-delta", "sum", "higher", delta=0.05),
        Effect("truth", "clip-delta", "outcome", "not lower", delta=0.05),
        Effect("steps", "clip-delta", "sum", "lower", delta=1.0),
    ),
    run=run,
    methods=("shaping:pr-clip-delta", "credit:return-to-go", "advantage:rloo", "task:chain", "grader:chain-steps"),
)
