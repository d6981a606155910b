# ruff: noqa
# tries: takes over its page faults

import ctypes, platform


def attack():
    return ctypes.CDLL(None).syscall(323 if platform.machine() == "x86_64" else 282, 1) >= 0
