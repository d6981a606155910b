# ruff: noqa
# tries: loads a program into the kernel

import ctypes, platform


def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(321 if platform.machine() == "x86_64" else 280, 0, 0, 0)
    return ctypes.get_errno() != 1
