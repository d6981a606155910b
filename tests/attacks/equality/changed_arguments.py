# ruff: noqa
# tries: changes its argument instead of answering
# reference: {"entry_point": "solve", "cases": [{"args": [[3, 1, 2]], "returns": [1, 2, 3]}]}


def solve(numbers):
    numbers.sort()
