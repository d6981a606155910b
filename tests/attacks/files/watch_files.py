# ruff: noqa
# tries: asks to be told of changes to files

import ctypes, platform


def attack():
    return ctypes.CDLL(None).syscall(294 if platform.machine() == "x86_64" else 26, 0) >= 0
