# ruff: noqa
# tries: returns all numbers that may be meant


def solve(n):
    return list(range(1000))
