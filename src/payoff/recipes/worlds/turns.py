"""Search in turns with a small transformer that has seen scripted searches: one policy to begin with, and one budget of tokens.

The questions, the environment, the rollouts and the exact belief are those of `turns-search`; what is made here is the policy at
first, by supervised learning of turns that a scripted searcher took.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch.nn.functional import cross_entropy

from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.lm import LanguageModel
from payoff.recipes.worlds import dialogue_learning
from payoff.recipes.worlds.dialogue_learning import Learned, with_critic
from payoff.tasks.turns.search import SearchTask
from payoff.trajectories import Channel, Trajectories

ENTITIES, HOPS, TURNS = 4, 2, 4
STARTS, ROLLOUTS = 8, 8
USELESS, SKIPS = 0.3, 0.25  # how often the scripted searcher looks up what it was not asked for, and answers without having looked
_LETTERS, _ALPHABET = "abcd", "abcd12?=!"
SETTING = (
    f"Questions over {HOPS} hops among {ENTITIES} names, each with a knowledge base of its own, at most {TURNS} turns (the task "
    "`turns-search`). A transformer of width 32 that has seen scripted searches, many of them without sense, is right in about "
    f"4 of 10 (guessing is 1 in 4). {STARTS} questions an update, ppo-clip, token mean and the same Adam in all arms, which stop "
    "after the same number of written tokens; no KL penalty. Budget and learning rate were set on GRPO with the outcome alone, "
    "seed 0, which is among those reported."
)


def task() -> SearchTask:
    """Questions over two hops among four names, in the language of two characters a turn.

    >>> task().held_out_starts(1)[0].fields["prompt"]
    'c21?'
    """
    return SearchTask(entities=ENTITIES, hops=HOPS, terse=True, turns=TURNS)


@lru_cache(maxsize=2)
def _taught(steps: int) -> LanguageModel:
    """A transformer after so many steps of supervised learning on scripted searches; the same for every caller."""
    policy = transformer(
        alphabet=_ALPHABET,
        context=20,
        width=32,
        layers=2,
        heads=2,
        max_tokens=2 * TURNS,
        stop=(),
        step_separator=None,
        seed=0,
    )
    draw, searches = random.Random(0), task()
    optimiser = torch.optim.Adam(policy.parameters(), lr=3e-3)
    pad = policy.tokenizer.pad
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        rows = [_scripted(searches, draw) for _ in range(64)]
        width = max(len(text) for text, _ in rows)
        tokens = torch.tensor([policy.tokenizer.encode(text) + [pad] * (width - len(text)) for text, _ in rows])
        own = torch.tensor([flags + [False] * (width - len(flags)) for _, flags in rows])
        logits = policy.model(tokens[:, :-1])
        loss = cross_entropy(logits[own[:, 1:]], tokens[:, 1:][own[:, 1:]])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return policy


def taught(steps: int = 300, *, critic: bool = False) -> LanguageModel:
    """A copy of the policy that every arm of every seed begins with: it writes turns as they should be, and searches badly.

    critic: with a head for values, which are 0 at first
    """
    policy = copy.deepcopy(_taught(steps))
    return with_critic(policy) if critic else policy


def _scripted(searches: SearchTask, draw: random.Random) -> tuple[str, list[bool]]:
    """The text of a search by script, and which of its characters the searcher wrote."""
    question = searches.question(draw.randrange(2**29))
    text = f"{_LETTERS[question.first]}{''.join(str(k + 1) for k in question.path)}?"
    own = [False] * len(text)
    here, known, hop = question.first, True, 0
    for turn in range(TURNS):
        if turn == TURNS - 1 or hop == HOPS or draw.random() < SKIPS:
            answer = here if hop == HOPS and known else draw.randrange(ENTITIES)
            text, own = text + f"={_LETTERS[answer]}", [*own, True, True]
            break
        if draw.random() < USELESS:
            name, relation = draw.randrange(ENTITIES), draw.randrange(HOPS)
        else:
            name, relation = here, question.path[hop]
        found = question.table[relation][name]
        if (name, relation) == (here, question.path[hop]):
            here, hop = found, hop + 1
        text, own = text + f"{_LETTERS[name]}{relation + 1}{_LETTERS[found]}", [*own, True, True, False]
    return text, own


def learn(
    target: Callable[[Trajectories], Channel | tuple[Channel, Channel]],
    seed: int,
    *,
    tokens: int,
    learning_rate: float = 1e-3,
    sample: Callable[[LanguageModel, Sequence[Start], torch.Generator], Trajectories] | None = None,
    policy: LanguageModel | None = None,
) -> Learned:
    """Train on these questions until so many tokens have been written: `dialogue_learning.learn`, which says what is what."""
    policy = taught() if policy is None else policy
    sizes = {"starts": STARTS, "rollouts": ROLLOUTS}
    return dialogue_learning.learn(task(), policy, target, seed, tokens=tokens, learning_rate=learning_rate, sample=sample, **sizes)
