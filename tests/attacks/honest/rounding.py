# ruff: noqa
# tries: computes with floats within the tolerance
# reference: {"entry_point": "solve", "tolerance": 1e-9, "cases": [{"args": [10], "returns": 1.0}]}


def solve(n):
    return sum(0.1 for _ in range(n))
