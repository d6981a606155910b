# ruff: noqa
# tries: locks its memory against swapping

import ctypes


def attack():
    return ctypes.CDLL(None).mlockall(3) == 0
