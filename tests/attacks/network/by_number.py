# ruff: noqa
# tries: makes the system call for a socket by its number

import ctypes, platform


def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.syscall(41 if platform.machine() == "x86_64" else 198, 2, 1, 0) >= 0
