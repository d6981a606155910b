"""Multi-turn agentic recipe: are a few demonstrations and then reinforcement better than either alone, at one budget?

payoff reproduce multi-turn-agentic-recipe-demonstrations
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial

import torch

from payoff.policies.lm import LanguageModel
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.dialogue_learning import imitate, learn
from payoff.recipes.worlds.search_sizes import outcome_alone, right, scripted, searches, taught

SIZE = (4, 2)  # names, hops
PRICE = 10  # tokens that the policy writes for one that is shown to it
SHARES = {"reinforcement": 0.0, "tenth": 0.1, "third": 1 / 3, "demonstrations": 1.0, "at-one-price": 1.0}  # of the budget, shown
USELESS = {"able": 0.3, "unable": 1.0}  # how much of the searches that the first policy has seen was without sense
STEPS, QUESTIONS = 200, 400


def shown(arm: str, tokens: int) -> int:
    """How many searches an arm is shown: their own tokens, two a turn, cost its share of the budget.

    >>> [shown(arm, 18_000) for arm in SHARES]
    [0, 30, 100, 300, 3000]
    """
    own = 2 * (SIZE[1] + 1)
    return int(SHARES[arm] * tokens + 1e-6) // (own if arm == "at-one-price" else PRICE * own)


def show(policy: LanguageModel, count: int, seed: int) -> None:
    """Teach the policy so many searches, all of which take the shortest way to the right answer."""
    draw = random.Random(seed)
    found = [scripted(searches(*SIZE), draw, useless=0.0, skips=0.0) for _ in range(count)]
    imitate(policy, lambda draw: draw.choice(found), steps=STEPS, batch=32, seed=seed)


def run(arm: str, seed: int, *, tokens: int = 14_000) -> Mapping[str, float]:
    """Search in turns by a small transformer, with one budget for all ways to teach it, from two policies to begin with."""
    torch.set_num_threads(1)
    task, numbers = searches(*SIZE), dict[str, float]()
    for start, useless in USELESS.items():
        policy = taught(SIZE, useless=useless, skips=0.25)
        if count := shown(arm, tokens):
            show(policy, count, seed)
        numbers[f"{start}-before"] = right(task, policy, seed, questions=QUESTIONS)
        if SHARES[arm] < 1:
            learn(task, policy, partial(outcome_alone, task), seed, tokens=round((1 - SHARES[arm]) * tokens))
        numbers[start] = right(task, policy, seed, questions=QUESTIONS)
    return numbers


RECIPE = Recipe(
    name="multi-turn-agentic-recipe-demonstrations",
    claim=(
        "At one budget, a small share of demonstrations and then reinforcement learning makes a better agent of turns than either "
        "demonstrations or reinforcement alone."
    ),
    paper="arXiv:2510.01132",
    test=(
        f"The task `turns-search`: questions over {SIZE[1]} hops among {SIZE[0]} names, each with a knowledge base of its own, "
        f"at most {SIZE[1] + 2} turns. All arms begin with a transformer of width 32 that has seen scripted searches, three "
        "look-ups in ten of them without sense, and is right in a third (able). The budget is counted in tokens that the policy "
        f"writes itself, and a token that it is shown costs {PRICE} of them, a price that was fixed before anything was run. "
        f"Demonstrations are searches by the shortest way, {STEPS} steps of supervised learning on whatever number of them is "
        "bought (batches of 32, Adam, from 3e-3 to 0). Reinforcement is GRPO on the right answer (8 questions of 8 rollouts an "
        f"update, ppo-clip, token mean, Adam at 1e-3, no KL penalty). {QUESTIONS} questions that nobody was trained on. The "
        "small share is a tenth; the third, and demonstrations at the price of written tokens, are there to compare with, and "
        "the claim says nothing of them. Budget and learning rate are those of multi-turn-agentic-recipe, where they were set "
        "on GRPO on the outcome, seed 0; nothing was set on the other arms. In a first form all began with a policy that had "
        "seen nothing but senseless searches (unable). Reinforcement alone learned nothing there on seed 0, in four times the "
        "budget too, so that more than nothing would have been better; that start is shown beside the other and not judged. Not "
        "tested: language models, other prices and shares, demonstrations that are not the best, and demonstrations of larger "
        "or smaller tasks."
    ),
    arms={
        "reinforcement": "all of the budget for reinforcement",
        "tenth": "a tenth for demonstrations, then reinforcement",
        "third": "a third for demonstrations, then reinforcement",
        "demonstrations": "all of the budget for demonstrations",
        "at-one-price": f"the same, were demonstrations {PRICE} times cheaper",
    },
    measures={
        "able": "share of right answers in the end, from a policy that is right in a third at first",
        "able-before": "the same before reinforcement",
        "unable": "share of right answers in the end, from a policy that guesses",
        "unable-before": "the same before reinforcement",
    },
    effects=(
        Effect("able", "tenth", "reinforcement", "higher", delta=0.03),
        Effect("able", "tenth", "demonstrations", "higher", delta=0.03),
    ),
    run=run,
    methods=("advantage:grpo", "loss:ppo-clip", "task:turns-search"),
)
