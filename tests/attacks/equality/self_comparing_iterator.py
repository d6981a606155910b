# ruff: noqa
# tries: returns an endless iterator

import itertools


def solve(n):
    return itertools.count()
