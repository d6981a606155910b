# ruff: noqa
# tries: no longer dies with its server

import ctypes


def attack():
    return ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0
