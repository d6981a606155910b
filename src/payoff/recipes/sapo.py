"""SAPO: does a soft gate learn more from data that has become old than a hard clip?

payoff reproduce sapo
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from payoff.recipes import Effect, Recipe, expected, train_arm

PROMPTS, VOCABULARY, HORIZON = 8, 4, 4
LOSSES: Mapping[str, Any] = {
    "grpo": "ppo-clip",
    "gspo": "gspo",
    "gspo-wide": {"name": "gspo", "low": 0.2, "high": 0.2},
    "sapo": "sapo",
}


def run(arm: str, seed: int, *, updates: int = 12) -> Mapping[str, float]:
    """A tabular policy and many passes over every batch: the off-policy stress. The final policy is judged exactly."""
    shape = {"vocabulary": VOCABULARY, "horizon": HORIZON}
    term = {"paths": {"correct": ["total", "grpo"]}, "aggregation": "sequence-mean-token-mean"}
    file = {
        "task": {"name": "tree", **shape, "prompts": PROMPTS, "density": 0.05, "seed": seed},
        "policy": {"name": "tabular", **shape, "starts": PROMPTS},
        "reward": {"correct": "tree-leaf"},
        "arms": {name: {"terms": {"policy": {**term, "loss": loss}}} for name, loss in LOSSES.items()},
        "train": {"updates": updates, "starts": 8, "rollouts": 16, "epochs": 16, "learning_rate": 0.02},
        "evaluate": {"every": 0, "starts": 0},
    }
    _, policy, task = train_arm(file, arm, seed)
    surprise = lambda prompt: -policy.probabilities(prompt).detach().clamp(min=1e-300).log()
    return {"truth": expected(policy, task.leaves, PROMPTS), "entropy": expected(policy, surprise, PROMPTS)}


RECIPE = Recipe(
    name="sapo",
    claim=(
        "A gate that fades smoothly with the ratio of each token, faster for bad ones, learns more from the same rollouts than "
        "GRPO's clip of tokens and GSPO's clip of sequences, which silence what has gone past their bound."
    ),
    paper="arXiv:2511.20347",
    test=(
        f"{PROMPTS} prompts with {VOCABULARY**HORIZON} answers each, 13 of them right. A tabular policy, uniform at first, learns "
        "from eight groups of sixteen per update, in sixteen passes over every batch, so that most steps are far off policy, with "
        "the same Adam, learning rate, advantage and aggregation in all arms. The bounds and temperatures are those of the papers; "
        "as GSPO's are meant for thousands of tokens and not for four, it also stands with those of GRPO. The final policy is "
        "judged exactly. The number of updates was sized on seed 99, which is not among those reported. Not tested: language "
        "models, mixtures of experts, and the stability of long runs."
    ),
    arms={
        "grpo": "clip of every action's ratio at 0.8 and 1.2",
        "gspo": "clip of the sequence's geometric mean at 0.9997 and 1.0004",
        "gspo-wide": "the same at 0.8 and 1.2",
        "sapo": "soft gate of every action's ratio, temperatures 1 and 1.05",
    },
    measures={
        "truth": "probability of a right answer under the final policy (exact)",
        "entropy": "entropy of the final policy's answers in nats, mean over prompts (exact)",
    },
    effects=(
        Effect("truth", "sapo", "grpo", "higher", delta=0.02),
        Effect("truth", "sapo", "gspo", "higher", delta=0.02),
        Effect("truth", "sapo", "gspo-wide", "higher", delta=0.02),
    ),
    run=run,
    methods=(*("loss:sapo", "loss:gspo", "loss:ppo-clip", "advantage:grpo", "aggregation:sequence-mean-token-mean", "task:tree"),),
)
