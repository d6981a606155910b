# ruff: noqa
# tries: recurses until the stack is full
# seconds: 2

import sys


def attack():
    sys.setrecursionlimit(10**9)

    def down(n):
        return down(n + 1) + [].__len__()

    return down(0)
