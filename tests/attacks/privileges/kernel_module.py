# ruff: noqa
# tries: loads a module into the kernel

import ctypes, platform


def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(313 if platform.machine() == "x86_64" else 273, 0, b"", 0)
    return ctypes.get_errno() != 1
