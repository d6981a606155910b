# ruff: noqa
# tries: becomes root of a user namespace of its own

import ctypes


def attack():
    return ctypes.CDLL(None).unshare(0x10000000) == 0
