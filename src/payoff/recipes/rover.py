"""ROVER: does fitting the value of acting at random find right answers as surely as GRPO, and more of them?

payoff reproduce rover
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from payoff.recipes import Effect, Recipe, expected, train_arm

PROMPTS, VOCABULARY, HORIZON, SAMPLES = 8, 4, 4, 16


def run(arm: str, seed: int, *, updates: int = 100) -> Mapping[str, float]:
    """A tabular policy, several right answers to a prompt; four passes over every batch, as they differ most in the later."""

    def terms(advantage: str, loss: str) -> dict[str, object]:
        return {
            "policy": {
                "paths": {"correct": ["total", advantage]},
                "loss": loss,
                "aggregation": "token-mean",
            }
        }

    shape = {"vocabulary": VOCABULARY, "horizon": HORIZON}
    file = {
        "task": {"name": "tree", **shape, "prompts": PROMPTS, "density": 0.05, "seed": seed},
        "policy": {"name": "tabular", **shape, "starts": PROMPTS},
        "reward": {"correct": "tree-leaf"},
        "arms": {"grpo": {"terms": terms("grpo", "ppo-clip")}, "rover": {"terms": terms("mean-baseline", "rover")}},
        "train": {"updates": updates, "starts": 8, "rollouts": 8, "epochs": 4, "learning_rate": 0.02},
        "evaluate": {"every": 0, "starts": 0},
    }
    _, policy, task = train_arm(file, arm, seed)

    def found(prompt: int) -> Tensor:
        """Spread over the answers so that its mean is the number of distinct right ones among SAMPLES."""
        p = policy.probabilities(prompt).detach()
        return torch.where(p > 0, task.leaves(prompt) * (1 - (1 - p) ** SAMPLES) / p.clamp(min=1e-300), 0)

    return {"truth": expected(policy, task.leaves, PROMPTS), "distinct": expected(policy, found, PROMPTS)}


RECIPE = Recipe(
    name="rover",
    claim=(
        "Fitting the log-ratio of the policy to the value of a policy that acts at random, with no clipping and no policy "
        "iteration, is no worse than GRPO-like training in the share of right answers, and keeps more distinct ones."
    ),
    paper="arXiv:2509.24981",
    test=(
        f"{PROMPTS} prompts with {VOCABULARY**HORIZON} answers each, 13 of them right: a deterministic tree with rewards of 0 "
        "and 1, as the theory wants. A tabular policy, uniform at first, learns from eight groups of eight per update, in "
        "four passes over every batch, with the same Adam and learning rate in both arms; on the first pass ROVER is the "
        "policy gradient with a group mean, so that the passes are what tells them apart. The final policy is judged exactly. "
        "The number of updates was sized on seed 99, which is not among those reported. Not tested: large vocabularies, in "
        "which the bootstrap nearly vanishes, language models, and the size of the gain in pass@1."
    ),
    arms={
        "grpo": "GRPO: standardised group advantage, clipped surrogate",
        "rover": "squared error of the log-ratio against centred reward plus the random policy's value",
    },
    measures={
        "truth": "probability of a right answer under the final policy (exact)",
        "distinct": f"expected number of different right answers among {SAMPLES} samples of the final policy (exact)",
    },
    effects=(
        Effect("truth", "rover", "grpo", "not lower", delta=0.05),
        Effect("distinct", "rover", "grpo", "higher", delta=0.5),
    ),
    run=run,
    methods=("loss:rover", "advantage:mean-baseline", "advantage:grpo", "loss:ppo-clip", "task:tree"),
)
