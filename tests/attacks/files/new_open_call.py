# ruff: noqa
# tries: opens a file by the call that filters cannot look into

import ctypes, struct


def attack():
    how = ctypes.create_string_buffer(struct.pack("QQQ", 0, 0, 0))
    return ctypes.CDLL(None).syscall(437, -100, b"/etc/passwd", how, 24) >= 0
