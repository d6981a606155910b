"""Unlikeliness reward: does paying rare successes more keep a policy from sharpening onto what it already does?

payoff reproduce unlikeliness-reward
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


def right_answers(seed: int) -> Bool[Tensor, "prompts L"]:
    """For every prompt, trained on or held out, the answers that solve it: RIGHT of 36, some of which solve many prompts."""
    rng = torch.Generator().manual_seed(seed)
    answers = VOCABULARY**HORIZON
    use = torch.randn(answers, generator=rng, dtype=torch.float64).exp()  # how widely an answer applies
    drawn = torch.multinomial(use.expand(PROMPTS + HELD_OUT, answers), RIGHT, generator=rng)
    return torch.zeros(PROMPTS + HELD_OUT, answers, dtype=torch.bool).scatter(1, drawn, True)


def run(arm: str, seed: int, *, updates: int = 80) -> Mapping[str, float]:
    """One table of logits serves all prompts, as what is learned on some must serve others; judged exactly on prompts not seen."""
    responses = Tree(vocabulary=VOCABULARY, horizon=HORIZON).responses
    right = right_answers(seed)
    tables = [{r: 1.0 for r, yes in zip(responses, row, strict=True) if yes} for row in right[:PROMPTS].tolist()]
    shape = {"vocabulary": VOCABULARY, "horizon": HORIZON}
    term = {"paths": {"correct": ["total", "grpo"]}, "loss": "ppo-clip", "aggregation": "token-mean"}
    shaping = [{"on": "correct", "do": ["unlikeliness-reward"]}]
    arms: dict[str, dict[str, Any]] = {"grpo": {"shaping": []}, "unlikeliness": {"shaping": shaping}}
    file = {
        "task": {"name": "tree", **shape, "prompts": PROMPTS, "leaf_rewards": tables},
        "policy": {"name": "tabular", **shape, "spread": 1.0, "seed": seed},
        "reward": {"correct": "tree-leaf"},
        "terms": {"policy": term},
        "arms": arms,
        "train": {"updates": updates, "starts": 8, "rollouts": 32, "epochs": 2, "learning_rate": 0.02},
        "evaluate": {"every": 0, "starts": 0},
    }
    p = train_arm(file, arm, seed).policy.probabilities().detach()
    solved = right[PROMPTS:].double() @ p
    return {f"pass@{n}": float((1 - (1 - solved) ** n).mean()) for n in (1, 8, 32)}


RECIPE = Recipe(
    name="unlikeliness-reward",
    claim=(
        "GRPO mostly sharpens onto answers that were likely before; paying a success the less the likelier it was in its "
        "group raises pass@N over a wide range of N."
    ),
    paper="arXiv:2506.02355",
    test=(
        f"36 answers, {RIGHT} of which solve any one prompt; how many prompts an answer solves differs widely. One tabular "
        f"policy that cannot tell prompts apart, random at first, trains on {PROMPTS} prompts and is judged exactly on "
        f"{HELD_OUT} others from the same distribution, so that an answer given up is missed where it alone was right. Eight "
        "groups of 32 per update, two passes, strength 0.25, no KL penalty in either arm. The number of updates was sized on "
        "seed 99, which is not among those reported. Not tested: theorem proving, language models, and the paper's KL."
    ),
    arms={"grpo": "1 for a right answer", "unlikeliness": "the same, less up to a quarter for the likelier successes of a group"},
    measures={f"pass@{n}": f"chance that one of {n} samples solves a held-out prompt (exact)" for n in (1, 8, 32)},
    effects=(
        Effect("pass@8", "unlikeliness", "grpo", "higher", delta=0.02),
        Effect("pass@32", "unlikeliness", "grpo", "higher", delta=0.02),
    ),
    run=run,
    methods=("shaping:unlikeliness-reward", "advantage:grpo", "loss:ppo-clip", "task:tree"),
)
