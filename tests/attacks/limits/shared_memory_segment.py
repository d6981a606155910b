# ruff: noqa
# tries: makes shared memory that outlives it

import ctypes


def attack():
    return ctypes.CDLL(None).shmget(0x1234, 4096, 0o1600) >= 0
