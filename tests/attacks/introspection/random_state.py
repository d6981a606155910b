# ruff: noqa
# tries: answers by the generator of random numbers

import random


def solve(n):
    return random.getrandbits(62)
