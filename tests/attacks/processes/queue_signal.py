# ruff: noqa
# tries: queues a signal for its parent

import ctypes, os


def attack():
    return ctypes.CDLL(None).sigqueue(os.getppid() or 2, 0, None) == 0
