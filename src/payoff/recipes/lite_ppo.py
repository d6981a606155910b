"""Lite PPO: is the spread of the batch a better scale than the spread of each group?

payoff reproduce lite-ppo
"""

from __future__ import annotations

from collections.abc import Mapping

from payoff.recipes import Effect, Recipe, train_arm


def run(arm: str, seed: int, *, updates: int = 60, held_out: int = 256) -> Mapping[str, float]:
    """The shipped transformer trains on chained arithmetic by its answers alone, eight rollouts of each of four prompts."""
    advantage, aggregation = {
        "grpo": ("grpo", "sequence-mean-token-mean"),
        "lite-ppo": ("lite-ppo", "token-mean"),
    }[arm]
    term = {"paths": {"correct": ["total", advantage]}, "loss": "ppo-clip", "aggregation": aggregation}
    file = {
        "task": {"name": "chain", "terms": 6},
        "policy": {"name": "transformer", "checkpoint": "chain", "max_tokens": 72, "stop": ["."], "step_separator": ";"},
        "reward": {"correct": "chain-answer"},
        "arms": {arm: {"terms": {"policy": term}}},
        "train": {"updates": updates, "starts": 4, "rollouts": 8, "learning_rate": 2e-4},
        "evaluate": {"every": 0, "starts": held_out},
    }
    trained = train_arm(file, arm, seed)
    return {"truth": trained.last("truth"), "zero_spread": trained.end("zero_spread"), "length": trained.end("length")}


RECIPE = Recipe(
    name="lite-ppo",
    claim=(
        "Two tricks suffice: with advantages centred by group but scaled by the batch, and every token of the batch weighing the "
        "same, a policy reaches higher accuracy than with GRPO."
    ),
    paper="arXiv:2508.08221",
    test=(
        "Chained arithmetic with a small pretrained transformer and the answer as the only reward; 32 rollouts per update, one "
        "optimiser step each, the same learning rate in both arms. Answers here are all of nearly the same length, so that the "
        "second trick has little to do. Not tested: base models of billions of parameters, long answers, and DAPO."
    ),
    arms={
        "grpo": "group mean, group spread; every answer weighs the same",
        "lite-ppo": "group mean, batch spread; every token weighs the same",
    },
    measures={
        "truth": "share of 256 held-out prompts answered rightly at the end, one sampled rollout each",
        "zero_spread": "share of groups without any spread, mean of the last ten updates",
        "length": "tokens per training rollout, mean of the last ten updates",
    },
    effects=(Effect("truth", "lite-ppo", "grpo", "higher", delta=0.02),),
    run=run,
    methods=(
        "advantage:lite-ppo",
        "advantage:grpo",
        "aggregation:token-mean",
        "loss:ppo-clip",
        "task:chain",
        "grader:chain-answer",
    ),
)
