# ruff: noqa
# tries: unshares its mounts

import ctypes


def attack():
    return ctypes.CDLL(None).unshare(0x00020000) == 0
