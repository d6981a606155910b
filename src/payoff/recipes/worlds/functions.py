"""Python functions of a whole number: a rule that holds for most numbers, and four exceptions to it.

A program is written at six places: whether it knows of exceptions at all, its rule, and its answer to each exception. Problems
differ in what is right, and in how many tests look at the rule and at the exceptions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from payoff.recipes.worlds.writing import Choices

RULES = ("x", "2 * x", "x + 7", "x * x")
EXCEPTIONS = ("x < 0", "x > 99", "x % 10 == 0", "x % 7 == 0")
ANSWERS = ("1", "None", "x - 1")
PLACES = (2, len(RULES), *[len(ANSWERS)] * len(EXCEPTIONS))

_ORDINARY = (3, 5, 8, 12, 15, 18, 22, 26, 33, 38, 44, 52, 57, 65, 78, 92)
_SPECIAL = ((-4, -9, -13, -25), (101, 104, 113, 128), (10, 20, 40, 90), (21, 49, 77, 91))


class Problem(NamedTuple):
    """The right choices after the first, and how many of 20 tests look at the rule; the others fall on the exceptions evenly."""

    right: Choices
    ordinary: int


PROBLEMS = (Problem((0, 0, 1, 2, 1), 16), Problem((3, 2, 2, 0, 1), 16), Problem((1, 1, 0, 0, 2), 4), Problem((2, 0, 2, 1, 1), 4))


def program(choices: Choices) -> str:
    """The text of a program; one that knows of no exceptions does not mention them, whatever is chosen for them.

    >>> print(program((1, 0, 1, 1, 1, 1)))
    def solve(x):
        if x < 0:
            return None
        if x > 99:
            return None
        if x % 10 == 0:
            return None
        if x % 7 == 0:
            return None
        return x
    """
    knows, rule, *answers = choices
    lines = ["def solve(x):"]
    for condition, answer in zip(EXCEPTIONS, answers, strict=True):
        lines += [f"    if {condition}:", f"        return {ANSWERS[answer]}"] if knows else []
    return "\n".join([*lines, f"    return {RULES[rule]}"])


@lru_cache(maxsize=4096)
def answers(source: str) -> tuple[int | None, ...]:
    """What a program of this language answers to every number from -30 to 130."""
    space: dict[str, Any] = {}
    exec(source, space)  # put together here, of parts that are known
    return tuple(space["solve"](x) for x in range(-30, 131))


def right(problem: int, choices: Choices) -> float:
    """1 where the program answers every number as it should, tested or not, else 0.

    >>> right(0, (1, *PROBLEMS[0].right)), right(0, (0, *PROBLEMS[0].right))
    (1.0, 0.0)
    """
    return float(answers(program(choices)) == answers(program((1, *PROBLEMS[problem].right))))


@lru_cache(maxsize=len(PROBLEMS))
def suite(problem: int) -> dict[str, Any]:
    """A reference of `code-tests`: 20 calls, those of the rule first.

    >>> len(suite(0)["cases"]), suite(0)["cases"][16]
    (20, {'args': [-4], 'returns': 1})
    """
    each = (20 - PROBLEMS[problem].ordinary) // len(EXCEPTIONS)
    asked = [*_ORDINARY[: PROBLEMS[problem].ordinary], *(x for numbers in _SPECIAL for x in numbers[:each])]
    known = answers(program((1, *PROBLEMS[problem].right)))
    return {"entry_point": "solve", "cases": [{"args": [x], "returns": known[x + 30]} for x in asked]}
