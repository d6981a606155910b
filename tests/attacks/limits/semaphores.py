# ruff: noqa
# tries: makes semaphores that outlive it

import ctypes


def attack():
    return ctypes.CDLL(None).semget(0x1234, 1, 0o1600) >= 0
