"""NFT: does supervised learning that also learns from wrong answers do as well as GRPO, and better than without them?

payoff reproduce nft
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from payoff.recipes import Effect, Recipe, expected, train_arm

PROMPTS, VOCABULARY, HORIZON = 8, 4, 4


def run(arm: str, seed: int, *, updates: int = 30) -> Mapping[str, float]:
    """A tabular policy; sixteen small steps on every batch, so that the later ones are off policy. The final policy is exact."""

    def terms(advantage: str, loss: Any) -> dict[str, Any]:
        return {"policy": {"paths": {"correct": ["total", advantage]}, "loss": loss, "aggregation": "token-mean"}}

    nft = {"name": "nft", "weight": "grpo"}
    shape = {"vocabulary": VOCABULARY, "horizon": HORIZON}
    file = {
        "task": {"name": "tree", **shape, "prompts": PROMPTS, "density": 0.05, "seed": seed},
        "policy": {"name": "tabular", **shape, "starts": PROMPTS, "spread": 1.0, "seed": seed},
        "reward": {"correct": "tree-leaf"},
        "arms": {
            "grpo": {"terms": terms("grpo", "ppo-clip")},
            "nft": {"terms": terms("mean-baseline", nft)},
            "rft": {"terms": terms("mean-baseline", {**nft, "negative": 0.0})},
        },
        "train": {"updates": updates, "starts": 8, "rollouts": 16, "epochs": 4, "minibatches": 4, "learning_rate": 0.02},
        "evaluate": {"every": 0, "starts": 0},
    }
    _, policy, task = train_arm(file, arm, seed)
    surprise = lambda prompt: -policy.probabilities(prompt).detach().clamp(min=1e-300).log()
    return {"truth": expected(policy, task.leaves, PROMPTS), "entropy": expected(policy, surprise, PROMPTS)}


RECIPE = Recipe(
    name="nft",
    claim=(
        "Maximum likelihood on right answers and, through the policy they imply, on wrong ones matches GRPO, and passes "
        "fine-tuning on the right answers alone; like GRPO it keeps more entropy than that."
    ),
    paper="arXiv:2505.18116",
    test=(
        f"{PROMPTS} prompts with {VOCABULARY**HORIZON} answers each, 13 of them right. A tabular policy, random at first, learns "
        "from eight groups of sixteen per update, in four passes of four steps over every batch, with the same Adam and learning "
        "rate in all arms; on the first step NFT is GRPO, so that the others tell them apart. The final policy is judged exactly. "
        "The number of updates was sized on seed 99, which is not among those reported. Not tested: language models, DAPO, and "
        "mixed batches of many prompts whose groups are all right or all wrong."
    ),
    arms={
        "grpo": "GRPO: standardised group advantage, clipped surrogate",
        "nft": "negative-aware fine-tuning with the weights that make it GRPO on policy",
        "rft": "the same without the wrong answers: weighted cloning of the right ones",
    },
    measures={
        "truth": "probability of a right answer under the final policy (exact)",
        "entropy": "entropy of the final policy's answers in nats, mean over prompts (exact)",
    },
    effects=(
        Effect("truth", "nft", "grpo", "not lower", delta=0.05),
        Effect("truth", "nft", "rft", "higher", delta=0.02),
        Effect("entropy", "nft", "rft", "higher", delta=0.1),
    ),
    run=run,
    methods=("loss:nft", "advantage:mean-baseline", "advantage:grpo", "loss:ppo-clip", "task:tree"),
)
