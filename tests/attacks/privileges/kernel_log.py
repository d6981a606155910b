# ruff: noqa
# tries: reads the kernel's messages

import ctypes


def attack():
    return ctypes.CDLL(None).klogctl(10, None, 0) >= 0
