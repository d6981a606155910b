"""Search in turns with a small transformer that has seen scripted searches: one policy to begin with, and one budget of tokens.

The questions, the environment, the rollouts and the exact belief are those of `turns-search`; what is made here is the policy at
first, by supervised learning of turns that a scripted searcher took, and the loop, which stops at a number of generated tokens.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from payoff.losses.aggregation import token_mean
from payoff.losses.policy_gradient import ppo_clip
from payoff.losses.value import value_loss
from payoff.policies.embedded import transformer
from payoff.policies.lm import LanguageModel
from payoff.tasks.turns.search import SearchTask
from payoff.trajectories import Channel, Trajectories, outcome

ENTITIES, HOPS, TURNS = 4, 2, 4
STARTS, ROLLOUTS = 8, 8
USELESS, SKIPS = 0.3, 0.25  # how often the scripted searcher looks up what it was not asked for, and answers without having looked
_VALUES = frozenset({"values"})
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
    if not critic:
        return policy
    return LanguageModel(
        policy.model, policy.tokenizer, max_tokens=policy.max_tokens, stop=policy.stop, step_separator=None, critic=True
    )


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


class Learned(NamedTuple):
    """What training came to.

    success: right answers in the last quarter of the tokens; over: in all of them; turns: of a rollout, in the last quarter
    silent:  share of rollouts none of whose actions had a weight, over all tokens
    """

    success: float
    over: float
    turns: float
    silent: float


def learn(
    target: Callable[[Trajectories], Channel | tuple[Channel, Channel]],
    seed: int,
    *,
    tokens: int,
    learning_rate: float = 1e-3,
    sample: Callable[[LanguageModel, Any, torch.Generator], Trajectories] | None = None,
    policy: LanguageModel | None = None,
) -> Learned:
    """Train by `ppo-clip` on the weights that `target` gives every batch of rollouts, until so many tokens have been written.

    target: or weights and returns, for a policy with a critic, whose values the rollouts then carry: half of `value` is added
    sample: (policy, starts, rng) -> rollouts, in place of eight of every start; tokens that rows share count once, and rows that
            branch off others are trained on and not counted among the right or wrong ones
    """
    rng, questions = torch.Generator().manual_seed(seed), task()
    policy = taught() if policy is None else policy
    optimiser = torch.optim.AdamW(policy.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    spent, history = 0, []
    while spent < tokens:
        starts = questions.starts(STARTS, rng)
        with torch.no_grad():
            traj = policy.rollout(starts, ROLLOUTS, rng) if sample is None else sample(policy, starts, rng)
        written = int(traj.own.sum())
        trunk = torch.ones_like(traj.id, dtype=torch.bool) if traj.parent is None else traj.parent < 0  # the policy's own mixture
        right = outcome(questions.truth(traj), traj)[0][trunk].double().mean()
        turns = float((traj.step.max(1).values + 1)[trunk].double().mean())
        if "values" in policy.offers:
            with torch.no_grad():
                traj = traj.replace(extras={"values": policy.evaluate(traj, _VALUES).more["values"]})
        given = target(traj)
        weights, returns = (given, None) if isinstance(given, Channel) else given
        silent = 1.0 - float((torch.where(traj.own, weights.value.abs(), 0).sum(1) > 0).double().mean())
        history.append((spent, min(written, tokens - spent), float(right), turns, silent))
        spent += written
        optimiser.zero_grad()
        evaluation = policy.evaluate(traj, _VALUES & policy.offers)
        terms = ppo_clip(evaluation, traj, weights).terms
        if returns is not None:
            terms = terms + value_loss(evaluation, traj, returns).terms / 2
        (terms * token_mean(weights, traj)).sum().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
    late = [line for line in history if line[0] >= 0.75 * tokens] or history[-1:]
    mean = lambda lines, place: sum(line[1] * line[place] for line in lines) / sum(line[1] for line in lines)
    return Learned(mean(late, 2), mean(history, 2), mean(late, 3), mean(history, 4))
