"""Search in turns of any size: scripted searches, sensible or not, and a small transformer that can speak of all of them.

The questions and the environment are those of `turns-search`; what is made here is what supervised learning learns from.
"""

from __future__ import annotations

import copy
import random
import string
from functools import lru_cache

import torch

from payoff.advantages.group import grpo
from payoff.credit.returns import total
from payoff.policies.embedded import transformer
from payoff.policies.lm import LanguageModel
from payoff.recipes.worlds.dialogue_learning import Script, imitate
from payoff.tasks.turns.search import SearchTask
from payoff.trajectories import Channel, Trajectories, outcome

_LETTERS = string.ascii_lowercase
_SCRIPTED = 2**29  # scripts search for the answers of these questions, which hardly anyone is trained on


def searches(entities: int, hops: int) -> SearchTask:
    """Questions of a size, with two turns more than they need look-ups, in the language of two characters a turn."""
    return SearchTask(entities=entities, hops=hops, terse=True)


def scripted(task: SearchTask, draw: random.Random, *, useless: float, skips: float) -> Script:
    """A search by script: what is asked for, and before each turn by chance something else, or an answer that is a guess.

    useless: how often it looks up any relation of anyone; skips: how often it answers without having looked
    """
    question = task.question(draw.randrange(_SCRIPTED))
    here, hop = question.first, 0
    said = [(f"{_LETTERS[here]}{''.join(str(k + 1) for k in question.path)}?", False)]
    for turn in range(task.turns):
        found = hop == task.hops
        if found or turn == task.turns - 1 or draw.random() < skips:
            answer = here if found else draw.randrange(task.entities)
            said.append((f"={_LETTERS[answer]}", True))
            break
        wanted = (here, question.path[hop])
        name, relation = (draw.randrange(task.entities), draw.randrange(task.hops)) if draw.random() < useless else wanted
        told = question.table[relation][name]
        if (name, relation) == wanted:
            here, hop = told, hop + 1
        said += [(f"{_LETTERS[name]}{relation + 1}", True), (_LETTERS[told], False)]
    return said


@lru_cache(maxsize=4)
def _taught(sizes: tuple[tuple[int, int], ...], useless: float, skips: float, steps: int) -> LanguageModel:
    tasks = [searches(*size) for size in sizes]
    entities, hops, turns = (
        max(task.entities for task in tasks),
        max(task.hops for task in tasks),
        max(task.turns for task in tasks),
    )
    policy = transformer(
        alphabet=_LETTERS[:entities] + "".join(str(k + 1) for k in range(hops)) + "?=!",
        context=hops + 2 + 3 * turns,
        width=32,
        layers=2,
        heads=2,
        max_tokens=2 * turns,
        stop=(),
        step_separator=None,
        seed=0,
    )
    imitate(policy, lambda draw: scripted(draw.choice(tasks), draw, useless=useless, skips=skips), steps=steps)
    return policy


def taught(*sizes: tuple[int, int], useless: float, skips: float, steps: int = 300) -> LanguageModel:
    """A copy of the policy that every arm of every seed begins with, from scripts of these sizes alike."""
    return copy.deepcopy(_taught(sizes, useless, skips, steps))


def outcome_alone(task: SearchTask, traj: Trajectories) -> Channel:
    """GRPO on the right answer."""
    return grpo(total(task.truth(traj), traj), traj)


def right(task: SearchTask, policy: LanguageModel, seed: int, *, questions: int) -> float:
    """Share of questions, none of which anyone was trained on, that the policy answers rightly, one search each."""
    with torch.no_grad():
        traj = policy.rollout(task.held_out_starts(questions), 1, torch.Generator().manual_seed(seed))
    return float(outcome(task.truth(traj), traj)[0].double().mean())
