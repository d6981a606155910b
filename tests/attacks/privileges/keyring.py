# ruff: noqa
# tries: leaves a key in the kernel

import ctypes, platform


def attack():
    return ctypes.CDLL(None).syscall(248 if platform.machine() == "x86_64" else 217, b"user", b"n", b"v", 1, -3) > 0
