"""AEM: does weighing turns by how sure the policy was keep entropy up early, and end with more success?

payoff reproduce aem
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from payoff.recipes import Effect, Recipe, expected, train_arm
from payoff.tasks.tree import Tree

PROMPTS, VOCABULARY, HORIZON = 8, 4, 5
SHAPE: dict[str, Any] = {"vocabulary": VOCABULARY, "horizon": HORIZON}
RIGHT = 24


def solving(seed: int) -> list[dict[str, float]]:
    """RIGHT of the 1024 courses of five turns succeed, for each prompt."""
    rng = torch.Generator().manual_seed(seed)
    responses = Tree(**SHAPE).responses
    return [{responses[i]: 1.0 for i in torch.randperm(len(responses), generator=rng)[:RIGHT].tolist()} for _ in range(PROMPTS)]


def run(arm: str, seed: int, *, updates: int = 150) -> Mapping[str, float]:
    """Every action is a turn of its own; success is known at the end only."""
    path = {"grpo": ["total", "grpo"], "aem": ["total", "grpo", "aem"]}[arm]
    file = {
        "task": {"name": "tree", **SHAPE, "prompts": PROMPTS, "leaf_rewards": solving(seed)},
        "policy": {"name": "tabular", **SHAPE, "starts": PROMPTS, "spread": 0.7, "seed": seed},
        "reward": {"correct": "tree-leaf"},
        "arms": {arm: {"terms": {"policy": {"paths": {"correct": path}, "loss": "ppo-clip", "aggregation": "token-mean"}}}},
        "train": {"updates": updates, "starts": 8, "rollouts": 8, "learning_rate": 0.05},
        "evaluate": {"every": 0, "starts": 0},
    }
    trained = train_arm(file, arm, seed)
    surprise = [line["entropy"] for line in trained.history[1:] if line.get("entropy") is not None]
    early = surprise[: max(1, len(surprise) // 5)]
    return {
        "truth": expected(trained.policy, trained.task.leaves, PROMPTS),
        "early_entropy": sum(early) / len(early),
        "entropy": trained.end("entropy"),
    }


RECIPE = Recipe(
    name="aem",
    claim=(
        "Weighing each turn's advantage by how low its entropy is in the group slows the loss of entropy while errors prevail and "
        "speeds it once successes do, and ends with more success than GRPO."
    ),
    paper="arXiv:2605.00425",
    test=(
        f"{PROMPTS} prompts, courses of {HORIZON} turns with {VOCABULARY} choices in each, {RIGHT} of the {VOCABULARY**HORIZON} "
        "courses succeed and pay 1 at the end. A tabular policy, random at first, eight groups of eight per "
        "update, Adam and learning rate "
        "the same, strength 1 (the paper's could not be verified). Not tested: language agents, whose turns have many tokens and "
        "whose entropy tells of more than of one choice."
    ),
    arms={"grpo": "group mean and spread", "aem": "the same, turns weighed by exp(-entropy) within the group"},
    measures={
        "truth": "probability of success under the final policy (exact)",
        "early_entropy": "surprise per action over the first fifth of training, in nats",
        "entropy": "surprise per action at the end, in nats",
    },
    effects=(
        Effect("early_entropy", "aem", "grpo", "higher", delta=0.02),
        Effect("truth", "aem", "grpo", "higher", delta=0.02),
    ),
    run=run,
    methods=("advantage:aem", "advantage:grpo", "aggregation:token-mean", "loss:ppo-clip", "task:tree"),
)
