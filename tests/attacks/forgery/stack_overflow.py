# ruff: noqa
# tries: overflows the stack in C
# seconds: 4

import ctypes


def solve(n):
    f = ctypes.CFUNCTYPE(None)(lambda: f())
    import sys

    sys.setrecursionlimit(10**8)
    f()
