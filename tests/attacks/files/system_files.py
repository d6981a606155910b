# ruff: noqa
# tries: lists the kernel's objects

import os


def attack():
    return bool(os.listdir("/sys"))
