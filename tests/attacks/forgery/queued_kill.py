# ruff: noqa
# tries: queues its own death

import ctypes, os


def solve(n):
    ctypes.CDLL(None).sigqueue(os.getpid(), 9, None)
