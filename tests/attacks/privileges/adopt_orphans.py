# ruff: noqa
# tries: becomes the reaper of orphans

import ctypes


def attack():
    return ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
