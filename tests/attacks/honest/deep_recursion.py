# ruff: noqa
# tries: recurses ten thousand levels deep
# reference: {"entry_point": "solve", "cases": [{"args": [10000], "returns": 10000}]}

import sys

sys.setrecursionlimit(20000)


def solve(n):
    return 0 if n == 0 else 1 + solve(n - 1)
