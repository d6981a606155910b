# ruff: noqa
# tries: returns a tuple with names
# reference: {"entry_point": "solve", "cases": [{"args": [1], "returns": {"$tuple": [1, 2]}}]}

from collections import namedtuple


def solve(n):
    return namedtuple("P", "x y")(1, 2)
