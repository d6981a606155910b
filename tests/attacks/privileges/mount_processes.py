# ruff: noqa
# tries: mounts the list of processes

import ctypes, os


def attack():
    os.mkdir("/tmp/p")
    return ctypes.CDLL(None).mount(b"proc", b"/tmp/p", b"proc", 0, None) == 0
