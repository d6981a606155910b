# ruff: noqa
# tries: answers by the clock, which a random number may come from

import time


def solve(n):
    return time.time_ns()
