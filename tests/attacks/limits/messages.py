# ruff: noqa
# tries: makes a queue of messages that outlives it

import ctypes


def attack():
    return ctypes.CDLL(None).msgget(0x1234, 0o1600) >= 0
