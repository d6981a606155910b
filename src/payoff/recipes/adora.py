"""ADORA: does learning mostly from groups whose right answers are long make answers longer, and better?

payoff reproduce adora
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from payoff.recipes import Effect, Recipe, expected, train_arm
from payoff.tasks.tree import Tree

PROMPTS, HORIZON, LONG = 16, 6, 4
SHAPE: dict[str, Any] = {"vocabulary": 3, "horizon": HORIZON, "stop": 2}
SHARE = 0.25


def solving(seed: int) -> list[dict[str, float]]:
    """Right answers of each prompt: a share of the long ones for the first half of the prompts, of the short for the second."""
    rng = torch.Generator().manual_seed(seed)
    responses = Tree(**SHAPE).responses
    tables = []
    for prompt in range(PROMPTS):
        able = [r for r in responses if (len(r) >= LONG) == (prompt < PROMPTS // 2)]
        chosen = torch.randperm(len(able), generator=rng)[: max(1, round(SHARE * len(able)))].tolist()
        tables.append({able[i]: 1.0 for i in chosen})
    return tables


def run(arm: str, seed: int, *, updates: int = 80) -> Mapping[str, float]:
    """A tabular policy that may stop at any time; half of the prompts need long answers and half short ones."""
    advantage = {"grpo": {"name": "grpo", "convention": "verl"}, "adora": "adora"}[arm]
    term = {"paths": {"correct": ["total", advantage]}, "loss": "ppo-clip", "aggregation": "token-mean"}
    file = {
        "task": {"name": "tree", **SHAPE, "prompts": PROMPTS, "leaf_rewards": solving(seed)},
        "policy": {"name": "tabular", **SHAPE, "starts": PROMPTS},
        "reward": {"correct": "tree-leaf"},
        "arms": {arm: {"terms": {"policy": term}}},
        "train": {"updates": updates, "starts": 8, "rollouts": 8, "learning_rate": 0.03},
        "evaluate": {"every": 0, "starts": 0},
    }
    _, policy, task = train_arm(file, arm, seed)
    length = policy.sequences().length.double()
    truth = [float(policy.probabilities(k).detach() @ task.leaves(k)) for k in range(PROMPTS)]
    half = PROMPTS // 2
    return {
        "truth": sum(truth) / PROMPTS,
        "long_truth": sum(truth[:half]) / half,
        "short_truth": sum(truth[half:]) / half,
        "length": expected(policy, lambda _: length, PROMPTS),
    }


RECIPE = Recipe(
    name="adora",
    claim=(
        "Weighing down the groups in which right answers are not the longer ones makes answers grow and ends with higher accuracy "
        "than GRPO."
    ),
    paper="arXiv:2602.10019",
    test=(
        f"{PROMPTS} prompts with answers of 1 to {HORIZON} actions; for half of them a quarter of the long answers (at least "
        f"{LONG} letters) is right, for the other half a quarter of the short. A tabular policy, at first as "
        f"likely to stop as to go on in "
        "either of two ways, eight groups of eight per update, the text rule at its weight 0.1, Adam and learning rate the same. "
        "Not tested: language models, whose reasoning may need length wherever it is found to help; the vision rule."
    ),
    arms={
        "grpo": "group mean and spread",
        "adora": "the same, a tenth of it where no right answer is longer than the mean wrong one",
    },
    measures={
        "truth": "probability of a right answer under the final policy (exact)",
        "long_truth": "the same over prompts that need long answers (exact)",
        "short_truth": "the same over prompts that need short answers (exact)",
        "length": "expected actions of an answer of the final policy (exact)",
    },
    effects=(
        Effect("length", "adora", "grpo", "higher", delta=0.1),
        Effect("truth", "adora", "grpo", "higher", delta=0.02),
    ),
    run=run,
    methods=("advantage:adora", "advantage:grpo", "aggregation:token-mean", "loss:ppo-clip", "task:tree"),
)
