# ruff: noqa
# tries: switches off the randomness of addresses

import ctypes


def attack():
    return ctypes.CDLL(None).personality(0x0040000) >= 0
