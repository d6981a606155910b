# ruff: noqa
# tries: returns None for an empty list
# reference: {"entry_point": "solve", "cases": [{"args": [1], "returns": []}]}


def solve(n):
    return None
