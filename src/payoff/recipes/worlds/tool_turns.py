"""Tool calls by a small transformer that has seen scripted ones: the questions, tools and sandbox are those of `turns-tools`."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from payoff.policies.lm import LanguageModel
from payoff.recipes.worlds.dialogue_learning import imitate, with_critic
from payoff.recipes.worlds.words import speaker
from payoff.tasks.turns.tool_library import TOOLS
from payoff.tasks.turns.tools import BadCallError, Call, ToolTask, read_call

TURNS, SECONDS = 4, 1.0
HASTE, CONFUSION = 0.2, 0.4  # how often the script answers before it has called what is needed, and calls something else
SETTING = (
    "Questions that take two calls of real Python functions in the sandbox, the second on what the first gave: the least common "
    f"multiple of two numbers, in a given base (the task `turns-tools`), at most {TURNS} turns. A transformer of width 48, in "
    "whose vocabulary the phrases of the task and the numbers up to 240 are one token each, has seen scripted rollouts in which "
    "two calls in five are of any tool and base, and every fifth turn answers too early; it samples at temperature 0.7 and is "
    "right in about one of three."
)
_USED = ("gcd", "lcm", "to_base")
_BASES = (2, 3, 8, 16)


def task() -> ToolTask:
    """Questions of two calls, which run one after another, so that a run repeats bit for bit; repeated calls are remembered.

    >>> task().held_out_starts(1)[0].fields["solution"]
    ['call: lcm(53, 12)\\n', 'call: to_base(636, 2)\\n', 'answer: 1001111100\\n']
    """
    return ToolTask(kinds=["multiple-in-base"], turns=TURNS, seconds=SECONDS, together=0, remember=4096)


def calls(item: Mapping[str, Any]) -> list[Call]:
    """The calls that a question needs, in their order."""
    return [call for turn in item["solution"] if (call := read_call(turn)) is not None]


def _same(said: Call, needed: Call) -> bool:
    """Whether two calls ask for the same thing: a divisor and a multiple do not depend on the order of their numbers."""
    if said.name != needed.name or said.keywords:
        return False
    return said.arguments == needed.arguments or (said.name in ("gcd", "lcm") and said.arguments == needed.arguments[::-1])


def sub_goals(item: Mapping[str, Any]) -> list[float]:
    r"""1 for every turn that made a call which the question needs, the first time, or gave the right answer.

    >>> turn = lambda said: {"said": said, "reward": 0.0}
    >>> said = ["call: lcm(4, 6)\n", "call: lcm(6, 4)\n", "call: to_base(12, 2)\n", "answer: 12\n"]
    >>> sub_goals({"solution": ["call: lcm(6, 4)\n", "call: to_base(12, 2)\n", "answer: 1100\n"], "turns": [*map(turn, said)]})
    [1.0, 0.0, 1.0, 0.0]
    """
    wanted, reached = calls(item), []
    for turn in item["turns"]:
        try:
            said = read_call(turn["said"])
        except BadCallError:
            said = None
        hit = next((needed for needed in wanted if said is not None and _same(said, needed)), None)
        if hit is not None:
            wanted.remove(hit)
        reached.append(float(hit is not None or turn["reward"] == 1.0))
    return reached


def words() -> list[str]:
    """Phrases of the questions and of the turns, and the numbers that questions are made of."""
    told = task().held_out_starts(1)[0].fields["prompt"].splitlines(keepends=True)
    asked = ["Write the least common multiple of ", " and ", " in base "]
    said = [*(f"call: {name}(" for name in _USED), ", ", ")\n", "answer: ", "Error: "]
    return ["".join(told[:-1]), *asked, *said, *map(str, range(241)), *(f"0{k}" for k in range(10))]


def script(item: Mapping[str, Any], draw: random.Random) -> list[tuple[str, bool]]:
    """A rollout of somebody who knows how to write turns, and often calls the wrong tool or answers too early."""
    text, needed = [(item["prompt"], False)], calls(item)
    last, done = None, 0
    numbers = [number for call in needed[:1] for number in call.arguments]
    for turn in range(TURNS):
        if done == len(needed) or turn == TURNS - 1 or draw.random() < HASTE:
            return [*text, (f"answer: {draw.choice(numbers) if last is None else last}\n", True)]
        call = needed[done]
        if draw.random() < CONFUSION:
            some = draw.sample(numbers, 2) if last is None or not str(last).isdigit() else [int(last), draw.choice(numbers)]
            name = draw.choice(_USED)
            call = Call(name, tuple(some) if name != "to_base" else (some[0], draw.choice(_BASES)))
        done += _same(call, needed[done])
        last = TOOLS[call.name](*call.arguments)
        text += [(f"call: {call.name}({', '.join(map(repr, call.arguments))})\n", True), (f"{last}\n", False)]
    return text


@lru_cache(maxsize=2)
def _taught(steps: int) -> LanguageModel:
    policy = speaker(words(), context=112, max_tokens=64, temperature=0.7, seed=1)
    items = [task().start(seed).fields for seed in range(4096)]
    imitate(policy, lambda draw: script(draw.choice(items), draw), steps=steps, batch=32, learning_rate=4e-3)
    return policy


def taught(steps: int = 800, *, critic: bool = False) -> LanguageModel:
    """A copy of the policy that every arm of every seed begins with; critic: with a head for values, which are 0 at first."""
    policy = copy.deepcopy(_taught(steps))
    return with_critic(policy) if critic else policy


def events(item: Mapping[str, Any]) -> int:
    """How many sub-goals a question has: its calls and its answer."""
    return len(item["solution"])
