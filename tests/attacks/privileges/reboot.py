# ruff: noqa
# tries: restarts the machine

import ctypes


def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.reboot(0)
    return ctypes.get_errno() != 1
