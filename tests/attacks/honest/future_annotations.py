# ruff: noqa
# tries: has annotations that are never looked at
# reference: {"entry_point": "solve", "cases": [{"args": [[1, 2]], "returns": {"a": 3}}]}

from __future__ import annotations
import typing as t
from dataclasses import dataclass


@dataclass
class Pair:
    a: Undefined


def solve(x: t.List[int]) -> Pair:
    return {"a": Pair(sum(x)).a}
