# ruff: noqa
# tries: returns what is not a number, as wanted
# reference: {"entry_point": "solve", "cases": [{"args": [], "returns": {"$float": "nan"}}]}


def solve():
    return float("nan")
