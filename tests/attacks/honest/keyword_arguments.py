# ruff: noqa
# tries: takes arguments by name
# reference: {"entry_point": "solve", "cases": [{"args": [1], "kwargs": {"b": 2, "c": [3]}, "returns": [1, 2, 3]}]}


def solve(a, *, b, c=()):
    return [a, b, *c]
