# ruff: noqa
# tries: lowers that limit by another call
# seconds: 2

import ctypes


def solve(n):
    limit = (ctypes.c_ulong * 2)(1, 1)
    ctypes.CDLL(None).prlimit(0, 0, limit, None)
    while True:
        pass
