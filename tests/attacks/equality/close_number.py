# ruff: noqa
# tries: returns a number that is nearly right
# reference: {"entry_point": "solve", "cases": [{"args": [1], "returns": 0.3}]}


def solve(n):
    return 0.1 + 0.2
