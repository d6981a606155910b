# ruff: noqa
# tries: mounts a file system in memory

import ctypes


def attack():
    return ctypes.CDLL(None).mount(b"x", b"/tmp", b"tmpfs", 0, None) == 0
