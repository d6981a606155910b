# ruff: noqa
# tries: sets up a ring, through which calls pass no filter

import ctypes


def attack():
    parameters = ctypes.create_string_buffer(120)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(425, 4, parameters)
    return ctypes.get_errno() not in (1, 38)
