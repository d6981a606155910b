# ruff: noqa
# tries: a method of a class, as on some sites
# reference: {"entry_point": "Solution.solve", "cases": [{"args": [3], "returns": 6}, {"args": [4], "returns": 24}]}


class Solution:
    def __init__(self):
        self.memory = {}

    def solve(self, n):
        return 1 if n < 2 else n * self.solve(n - 1)
