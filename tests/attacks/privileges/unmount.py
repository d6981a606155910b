# ruff: noqa
# tries: takes the scratch folder away to see what lies below

import ctypes


def attack():
    return ctypes.CDLL(None).umount2(b"/tmp", 2) == 0
