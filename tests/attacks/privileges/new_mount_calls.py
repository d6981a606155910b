# ruff: noqa
# tries: opens the root as a tree of its own

import ctypes


def attack():
    return ctypes.CDLL(None).syscall(428, -100, b"/", 1) >= 0
