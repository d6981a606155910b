# ruff: noqa
# tries: asks the kernel to compare it with its parent

import ctypes, os, platform


def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.syscall(312 if platform.machine() == "x86_64" else 272, os.getpid(), os.getpid(), 0, 0, 1) >= 0
