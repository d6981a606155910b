# ruff: noqa
# tries: attaches to its parent as a debugger

import ctypes, os


def attack():
    return ctypes.CDLL(None).ptrace(16, os.getppid() or 2, 0, 0) == 0
