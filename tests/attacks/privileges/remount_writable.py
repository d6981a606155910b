# ruff: noqa
# tries: makes the root writable

import ctypes


def attack():
    return ctypes.CDLL(None).mount(None, b"/", None, 32, None) == 0
