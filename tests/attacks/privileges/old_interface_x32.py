# ruff: noqa
# tries: makes system calls by the numbers of the x32 interface

import ctypes


def attack():
    return ctypes.CDLL(None).syscall(0x40000000 + 39) > 0
