# ruff: noqa
# tries: leaves a mark in a module that is loaded already

import math


def attack():
    found = hasattr(math, "mark")
    math.mark = 1
    return found
