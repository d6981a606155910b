# ruff: noqa
# tries: returns a number wider than a machine word
# reference: {"entry_point": "solve", "cases": [{"args": [70], "returns": 1180591620717411303424}]}


def solve(n):
    return 1 << n
