# ruff: noqa
# tries: makes a child in a user namespace of its own

import ctypes, os, platform


def attack():
    pid = ctypes.PyDLL(None).syscall(56 if platform.machine() == "x86_64" else 220, 0x10000000 | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return pid > 0
