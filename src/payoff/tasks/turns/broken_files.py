"""The files of `turns-repair`: small functions that are right, with inputs, and ways to break one of them in one place."""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

from payoff.sandbox.plain import same


class Whole(NamedTuple):
    """A right function: its name, its source, and inputs; the first two are shown to whoever repairs it, all are tested."""

    name: str
    source: str
    inputs: tuple[tuple, ...]


# No loop of these can be broken into one that does not end: they only go over ranges and given lists.
_SOURCES = """
def running_total(numbers):
    'The sums of the first one, two, ... numbers.'
    total = 0
    sums = []
    for number in numbers:
        total = total + number
        sums.append(total)
    return sums

def count_above(numbers, limit):
    'How many numbers are greater than the limit.'
    count = 0
    for number in numbers:
        if number > limit:
            count = count + 1
    return count

def is_palindrome(text):
    'Whether a text reads the same from behind, case aside.'
    text = text.lower()
    for i in range(len(text) // 2):
        if text[i] != text[len(text) - 1 - i]:
            return False
    return True

def clamp(value, low, high):
    'The value, or the nearest of low and high where it lies outside.'
    if value < low:
        return low
    if value > high:
        return high
    return value

def leap_year(year):
    'Whether a year has 366 days in the Gregorian calendar.'
    if year % 400 == 0:
        return True
    if year % 100 == 0:
        return False
    return year % 4 == 0

def differences(numbers):
    'Each number but the first, less the one before it.'
    found = []
    for i in range(1, len(numbers)):
        found.append(numbers[i] - numbers[i - 1])
    return found

def second_largest(numbers):
    'The second largest of the different numbers, None where there is none.'
    ordered = sorted(set(numbers))
    if len(ordered) < 2:
        return None
    return ordered[len(ordered) - 2]

def average(numbers, default):
    'The mean of the numbers, or the default where there are none.'
    total = 0
    for number in numbers:
        total = total + number
    if len(numbers) == 0:
        return default
    return total / len(numbers)
"""
_INPUTS: dict[str, tuple[tuple, ...]] = {
    "running_total": (([1, 2, 3],), ([5],), ([],), ([-1, 1, -1],), ([0, 0, 7],)),
    "count_above": (([1, 5, 9], 4), ([2], 3), ([3, 3, 4], 3), ([], 0), ([-2, -1, 0], -2)),
    "is_palindrome": (("Anna",), ("ab",), ("",), ("abca",), ("Noon",), ("abcdba",)),
    "clamp": ((5, 0, 3), (2, 0, 3), (-1, 0, 3), (3, 3, 3), (0, 0, 9)),
    "leap_year": ((2024,), (2023,), (1900,), (2000,), (2100,), (1996,), (400,)),
    "differences": (([1, 4, 9],), ([3, 3],), ([7],), ([5, 2, 2, 8],)),
    "second_largest": (([1, 5, 3],), ([2, 2],), ([4, 4, 1],), ([],), ([9, 8, 7, 6],)),
    "average": (([1, 2, 3], 0), ([4], 1), ([], 7), ([2, 2, 5, 7], 0)),
}
WHOLE = tuple(
    Whole(name, source + "\n", _INPUTS[name])
    for source in _SOURCES.strip("\n").split("\n\n")
    for name in [source.removeprefix("def ").partition("(")[0]]
)

_SWAPS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Div: (ast.FloorDiv,),
    ast.FloorDiv: (ast.Mult,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
}


class Broken(NamedTuple):
    """A file with one fault. expected: what the right function gives for each of its inputs; failing: on how many it errs."""

    whole: Whole
    source: str
    line: int  # of the fault, from 1
    expected: tuple[Any, ...]
    failing: int

    @property
    def right_line(self) -> str:
        """The line as it was."""
        return self.whole.source.splitlines()[self.line - 1]


def broken(seed: int) -> Broken:
    """The broken file of this seed: one operator or number is another, and some of the inputs come out wrong.

    >>> fault = broken(0)
    >>> fault.source.splitlines()[fault.line - 1] == fault.right_line
    False
    """
    draw = random.Random(f"turns-repair {seed}")
    whole = draw.choice(WHOLE)
    expected, found = _faults(whole.name)
    source, failing = draw.choice(found)
    pairs = zip(source.splitlines(), whole.source.splitlines(), strict=True)
    line = next(number for number, (a, b) in enumerate(pairs, 1) if a != b)
    return Broken(whole, source, line, expected, failing)


@cache
def _faults(name: str) -> tuple[tuple[Any, ...], list[tuple[str, int]]]:
    """What the right function gives, and every variant of it that gives something else somewhere, with how often it errs."""
    whole = next(whole for whole in WHOLE if whole.name == name)
    expected, found = tuple(_outcomes(whole.source, whole)), []
    for source in dict.fromkeys(variants(whole.source)):
        given = tuple(_outcomes(source, whole))
        if given != expected:
            found.append((source, sum(not same(a, b) for a, b in zip(given, expected, strict=True))))
    return expected, found


def variants(source: str) -> Iterator[str]:
    """The source with one place changed, in an order that depends on nothing else."""
    tree = ast.parse(source)
    for index, node in enumerate(ast.walk(tree)):
        operator = node.op if isinstance(node, ast.BinOp) else node.ops[0] if isinstance(node, ast.Compare) else None
        for other in _SWAPS.get(type(operator), ()):
            yield _changed(source, tree, index, partial(_operate, operator=other()))
        if isinstance(node, ast.Constant) and type(node.value) is int:
            for shift in (1, -1):
                yield _changed(source, tree, index, partial(_shift, by=shift))


def _changed(source: str, tree: ast.Module, index: int, change: Callable[[Any], None]) -> str:
    """The source in which the line of one node is written anew with the change."""
    twin = copy.deepcopy(tree)
    node = list(ast.walk(twin))[index]
    change(node)
    number = node.lineno  # type: ignore[attr-defined]
    lines, fresh = source.splitlines(), ast.unparse(twin).splitlines()
    plain = ast.unparse(tree).splitlines()
    differing = [k for k, (a, b) in enumerate(zip(fresh, plain, strict=True)) if a != b]
    lines[number - 1] = fresh[differing[0]]
    return "\n".join(lines) + "\n"


def _shift(node: Any, by: int) -> None:
    node.value += by


def _operate(node: Any, operator: Any) -> None:
    if isinstance(node, ast.BinOp):
        node.op = operator
    else:
        node.ops = [operator]


def _outcomes(source: str, whole: Whole) -> Iterator[Any]:
    """What this code of our own gives for each input; the name of what it raises where it does."""
    scope: dict[str, Any] = {}
    exec(source, scope)
    for arguments in whole.inputs:
        try:
            yield scope[whole.name](*copy.deepcopy(arguments))
        except Exception as error:  # a fault may well raise
            yield type(error)
