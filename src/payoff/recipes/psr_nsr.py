"""PSR and NSR: does punishing wrong answers alone keep what reinforcing right ones alone gives away?

payoff reproduce psr-nsr
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from payoff.recipes import Effect, Recipe, train_arm
from payoff.tasks.tree import Tree

PROMPTS, HELD_OUT, VOCABULARY, HORIZON, RIGHT = 64, 256, 6, 2, 3
NUMBERS = (1, 8, 64)
ADVANTAGES: dict[str, Any] = {
    "grpo": "grpo",
    "psr": {"name": "psr-nsr", "positive": 1.0, "negative": None},
    "nsr": {"name": "psr-nsr", "positive": None, "negative": 1.0},
    "weighted-reinforce": {"name": "psr-nsr", "positive": 0.1, "negative": 1.0},
}


def solving(seed: int) -> Bool[Tensor, "prompts L"]:
    """Which answers solve each prompt, trained on or held out: RIGHT of 36, and some answers solve many prompts."""
    rng = torch.Generator().manual_seed(seed)
    answers = VOCABULARY**HORIZON
    use = torch.randn(answers, generator=rng, dtype=torch.float64).exp()
    drawn = torch.multinomial(use.expand(PROMPTS + HELD_OUT, answers), RIGHT, generator=rng)
    return torch.zeros(PROMPTS + HELD_OUT, answers, dtype=torch.bool).scatter(1, drawn, True)


def run(arm: str, seed: int, *, updates: int = 80) -> Mapping[str, float]:
    """One table of logits for all prompts; what one answer gains, others lose; judged exactly on prompts not seen."""
    responses = Tree(vocabulary=VOCABULARY, horizon=HORIZON).responses
    right = solving(seed)
    tables = [{r: 1.0 for r, yes in zip(responses, row, strict=True) if yes} for row in right[:PROMPTS].tolist()]
    shape = {"vocabulary": VOCABULARY, "horizon": HORIZON}
    term = {"paths": {"correct": ["total", ADVANTAGES[arm]]}, "loss": "ppo-clip", "aggregation": "token-mean"}
    file = {
        "task": {"name": "tree", **shape, "prompts": PROMPTS, "leaf_rewards": tables},
        "policy": {"name": "tabular", **shape, "spread": 1.0, "seed": seed},
        "reward": {"correct": "tree-leaf"},
        "arms": {arm: {"terms": {"policy": term}}},
        "train": {"updates": updates, "starts": 16, "rollouts": 8, "epochs": 2, "learning_rate": 0.02},
        "evaluate": {"every": 0, "starts": 0},
    }
    p = train_arm(file, arm, seed).policy.probabilities().detach()
    solved = right[PROMPTS:].double() @ p
    passed = {f"pass@{n}": float((1 - (1 - solved) ** n).mean()) for n in NUMBERS}
    return {**passed, "entropy": float(-torch.xlogy(p, p).sum())}


RECIPE = Recipe(
    name="psr-nsr",
    claim=(
        "Punishing wrong answers alone raises success while keeping pass@k at large k; reinforcing right ones alone raises pass@1 "
        "and lowers pass@k at large k; right answers at a tenth of the weight beside it are best overall, better than GRPO."
    ),
    paper="arXiv:2506.01347",
    test=(
        f"36 answers, {RIGHT} of which solve any one prompt; how many prompts an answer solves differs widely. One tabular policy "
        f"that cannot tell prompts apart, random at first, trains on {PROMPTS} prompts, 16 groups of 8 per "
        f"update and two passes, and "
        f"is judged exactly on {HELD_OUT} others. Same Adam and learning rate in all arms. Not tested: "
        f"language models; k of 256 on "
        "answers as many as theirs."
    ),
    arms={
        "grpo": "group mean and spread",
        "psr": "right answers at 1, wrong ones left out",
        "nsr": "wrong answers at -1, right ones left out",
        "weighted-reinforce": "right answers at 0.1, wrong ones at -1",
    },
    measures={
        **{f"pass@{n}": f"chance that one of {n} samples solves a held-out prompt (exact)" for n in NUMBERS},
        "entropy": "of the final policy's answers, in nats (exact)",
    },
    effects=(
        Effect("pass@1", "psr", "nsr", "higher", delta=0.02),
        Effect("pass@64", "nsr", "psr", "higher", delta=0.02),
        Effect("pass@64", "weighted-reinforce", "grpo", "higher", delta=0.02),
        Effect("pass@1", "weighted-reinforce", "grpo", "not lower", delta=0.02),
    ),
    run=run,
    methods=("advantage:psr-nsr", "advantage:grpo", "loss:ppo-clip", "task:tree"),
)
