# ruff: noqa
# tries: makes a child by the call that filters cannot look into

import ctypes


def attack():
    arguments = (ctypes.c_ulonglong * 11)(0x10000000, 0, 0, 0, 17)
    return ctypes.CDLL(None).syscall(435, arguments, 88) > 0
