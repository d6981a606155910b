# ruff: noqa
# tries: becomes a debugger at all

import ctypes


def attack():
    return ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0
