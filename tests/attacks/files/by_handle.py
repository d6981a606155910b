# ruff: noqa
# tries: opens a file by its handle

import ctypes, platform


def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(304 if platform.machine() == "x86_64" else 265, 0, 0, 0)
    return ctypes.get_errno() != 1
