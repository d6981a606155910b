# ruff: noqa
# tries: joins the network of another process

import ctypes, os


def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.setns(0, 0)
    return ctypes.get_errno() != 1
