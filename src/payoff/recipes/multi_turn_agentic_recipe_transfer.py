"""Multi-turn agentic recipe: does what was learned in a small environment of turns help in a larger one?

payoff reproduce multi-turn-agentic-recipe-transfer
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.dialogue_learning import learn
from payoff.recipes.worlds.search_sizes import outcome_alone, right, searches, taught

SMALL, LARGE = (4, 2), (6, 2)  # names, hops
QUESTIONS = 400


def run(arm: str, seed: int, *, tokens: int = 14_000) -> Mapping[str, float]:
    """Search in turns by a small transformer that has seen scripted searches of both sizes; it is judged on both."""
    torch.set_num_threads(1)
    policy = taught(SMALL, LARGE, useless=0.3, skips=0.25)
    if arm != "untrained":
        task = searches(*(SMALL if arm == "small" else LARGE))
        learn(task, policy, partial(outcome_alone, task), seed, tokens=tokens)
    sizes = {"large": LARGE, "small": SMALL}
    return {name: right(searches(*size), policy, seed, questions=QUESTIONS) for name, size in sizes.items()}


RECIPE = Recipe(
    name="multi-turn-agentic-recipe-transfer",
    claim="What an agent of turns learns in a small environment helps it in a larger one that it was not trained in.",
    paper="arXiv:2510.01132",
    test=(
        f"The task `turns-search`. Questions over {SMALL[1]} hops, small ones among {SMALL[0]} names, large ones among "
        f"{LARGE[0]}, each with a knowledge base of its own, at most {SMALL[1] + 2} turns. A transformer of width 32 has seen "
        "scripted searches of both sizes, so that it can write of both; many are without sense. Then GRPO on the right answer (8 "
        "questions of 8 rollouts an update, ppo-clip, token mean, Adam at 1e-3, no KL penalty), and "
        f"{QUESTIONS} questions of each size that nobody was trained on. Budget and learning rate are those of "
        "multi-turn-agentic-recipe, where they were set on GRPO on the outcome, seed 0. The arm that is trained on large "
        "questions, with as many written tokens, is there to compare with; the claim says nothing of it. In a first form large "
        "questions went over 3 hops among 6 names; there the policy that was trained on them learned nothing either (0.16, and "
        "0.18 for small ones, 0.19 untrained; a guess is 0.17), so nothing could be told, and the size was changed until that arm "
        "learned, which was looked at with seed 0 alone. Not tested: longer paths, language models, and whether small first and "
        "large then is better than large alone."
    ),
    arms={
        "untrained": "the policy that all begin with",
        "small": "trained on small questions",
        "large": "trained on large questions",
    },
    measures={"large": "share of right answers to large questions", "small": "share of right answers to small questions"},
    effects=(Effect("large", "small", "untrained", "higher", delta=0.05),),
    run=run,
    methods=("advantage:grpo", "loss:ppo-clip", "task:turns-search"),
)
