# ruff: noqa
# tries: leaves an environment variable in the C library

import ctypes


def attack():
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    found = libc.getenv(b"MARK") is not None
    libc.setenv(b"MARK", b"1", 1)
    return found
