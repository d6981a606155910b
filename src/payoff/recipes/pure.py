"""PURE: does crediting steps by the worst one withstand a step grader whose sum can be gamed?

payoff reproduce pure
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from payoff.recipes import Effect, Recipe, train_arm

STEPS = {"name": "chain-steps", "wrong": -1, "ungraded": 1}  # pays what looks right, needed or not: the planted loophole


def term(paths: Mapping[str, Any]) -> dict[str, Any]:
    return {"policy": {"paths": paths, "then": ["rms"], "loss": "ppo-clip", "aggregation": "token-mean"}}


def run(arm: str, seed: int, *, updates: int = 100, held_out: int = 256) -> Mapping[str, float]:
    """The shipped transformer trains on chained arithmetic; the two process arms differ in one transform and nothing else."""
    baseline = {"name": "rloo", "over": "step"}
    file = {
        "task": {"name": "chain", "terms": 6},
        "policy": {"name": "transformer", "checkpoint": "chain", "max_tokens": 72, "stop": ["."], "step_separator": ";"},
        "reward": {"process": STEPS},
        "arms": {
            "outcome": {"terms": term({"correct": ["total", "rloo"]}), "reward": {"correct": "chain-answer"}},
            "sum": {"terms": term({"process": ["return-to-go", baseline]})},
            "soft-min": {"terms": term({"process": [{"name": "pure", "temperature": 0.1}, "return-to-go", baseline]})},
        },
        "train": {"updates": updates, "starts": 4, "rollouts": 4, "learning_rate": 2e-4},
        "evaluate": {"every": 0, "starts": held_out},
    }
    trained = train_arm(file, arm, seed)
    return {"truth": trained.last("truth"), "steps": trained.end("steps"), "reward": trained.end("reward")}


RECIPE = Recipe(
    name="pure",
    claim=(
        "Trained on the scores of a process reward model alone, a policy reaches the level that verified answers reach if the "
        "scores are credited by their minimum; credited by their sum, they are gamed and training collapses."
    ),
    paper="arXiv:2504.15275",
    test=(
        "Chained arithmetic with a small pretrained transformer and a rule as step grader, which pays 1 for any step that is "
        "arithmetically right and -1 for any other, needed or not. The two process arms see no answer reward, and have the same "
        "leave-one-out baseline per step, so that they differ in the credit alone. Not tested: a learned step grader, a 7B model, "
        "and how many training steps are saved."
    ),
    arms={
        "outcome": "the answer alone",
        "sum": "the step scores, each step credited with the sum of all that follow",
        "soft-min": "the same step scores credited by the soft minimum (temperature 0.1)",
    },
    measures={
        "truth": "share of 256 held-out prompts answered rightly at the end, one sampled rollout each",
        "steps": "steps and answer per training rollout, mean of the last ten updates (6 are needed, 12 fit)",
        "reward": "the arm's own reward per training rollout, mean of the last ten updates",
    },
    effects=(
        Effect("truth", "soft-min", "sum", "higher", delta=0.05),
        Effect("truth", "soft-min", "outcome", "not lower", delta=0.05),
    ),
    run=run,
    methods=("credit:pure", "credit:return-to-go", "advantage:rloo", "task:chain", "grader:chain-steps"),
)
