"""PACS: does telling right from wrong, as a classifier of the policy's own log-ratios, leave more ways to be right than GRPO?

payoff reproduce pacs
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from payoff.recipes import Effect, Recipe, train_arm
from payoff.recipes.unlikeliness_reward import HORIZON, PROMPTS, RIGHT, VOCABULARY, right_answers
from payoff.tasks.tree import Tree


def run(arm: str, seed: int, *, updates: int = 80) -> Mapping[str, float]:
    """One table of logits serves all prompts; pass rates on prompts not seen are exact."""
    shape = {"vocabulary": VOCABULARY, "horizon": HORIZON}
    responses, right = Tree(vocabulary=VOCABULARY, horizon=HORIZON).responses, right_answers(seed)
    tables = [{r: 1.0 for r, yes in zip(responses, row, strict=True) if yes} for row in right[:PROMPTS].tolist()]

    def terms(path: list[str], loss: Any, aggregation: str) -> dict[str, Any]:
        return {"policy": {"paths": {"correct": path}, "loss": loss, "aggregation": aggregation}}

    file = {
        "task": {"name": "tree", **shape, "prompts": PROMPTS, "leaf_rewards": tables},
        "policy": {"name": "tabular", **shape, "spread": 1.0, "seed": seed},
        "reward": {"correct": "tree-leaf"},
        "arms": {
            "grpo": {"terms": terms(["total", "grpo"], "ppo-clip", "sequence-mean-token-mean")},
            "rloo": {"terms": terms(["total", "rloo"], "ppo-clip", "sequence-mean-token-mean")},
            "pacs": {"terms": terms(["total"], "pacs", "sequence-mean-token-mean")},
        },
        "train": {"updates": updates, "starts": 8, "rollouts": 8, "epochs": 2, "learning_rate": 0.02},
        "evaluate": {"every": 0, "starts": 0},
    }
    p = train_arm(file, arm, seed).policy.probabilities().detach()
    solved = right[PROMPTS:].double() @ p
    return {f"pass@{n}": float((1 - (1 - solved) ** n).mean()) for n in (1, 8, 32)}


RECIPE = Recipe(
    name="pacs",
    claim=(
        "Cross-entropy between the outcome and how far the policy raised a rollout above the others of its group is no worse than "
        "policy gradients in pass@1, and much better in pass@n for large n."
    ),
    paper="arXiv:2509.02522",
    test=(
        f"{VOCABULARY**HORIZON} answers, {RIGHT} of which solve any one prompt; how many prompts an answer solves differs widely. "
        f"One tabular policy that cannot tell prompts apart, random at first, trains on {PROMPTS} prompts, eight groups of eight "
        "per update and two passes, with the same Adam and learning rate in all arms, and is judged exactly on 256 other prompts "
        "from the same distribution. No clip and no KL in PACS, scale 1, balanced classes. Not tested: language models, and maths."
    ),
    arms={
        "grpo": "standardised group advantage, clipped surrogate",
        "rloo": "leave-one-out advantage, clipped surrogate",
        "pacs": "cross-entropy of the outcome under the leave-one-out log-ratio",
    },
    measures={f"pass@{n}": f"chance that one of {n} samples solves a held-out prompt (exact)" for n in (1, 8, 32)},
    effects=(
        Effect("pass@1", "pacs", "grpo", "not lower", delta=0.02),
        Effect("pass@32", "pacs", "grpo", "higher", delta=0.02),
        Effect("pass@32", "pacs", "rloo", "higher", delta=0.02),
    ),
    run=run,
    methods=("loss:pacs", "advantage:grpo", "advantage:rloo", "loss:ppo-clip", "task:tree"),
)
