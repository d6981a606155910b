# ruff: noqa
# tries: remembers what it computed
# reference: {"entry_point": "solve", "cases": [{"args": [80], "returns": 23416728348467685}, {"args": [10], "returns": 55}]}

from functools import lru_cache


@lru_cache(maxsize=None)
def solve(n):
    return n if n < 2 else solve(n - 1) + solve(n - 2)
