# ruff: noqa
# tries: a static method
# reference: {"entry_point": "Solution.solve", "cases": [{"args": [3], "returns": 4}]}


class Solution:
    @staticmethod
    def solve(n):
        return n + 1
