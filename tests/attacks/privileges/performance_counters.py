# ruff: noqa
# tries: opens the processor's counters

import ctypes, platform


def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(298 if platform.machine() == "x86_64" else 241, 0, 0, -1, -1, 0)
    return ctypes.get_errno() != 1
