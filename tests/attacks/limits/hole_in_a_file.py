# ruff: noqa
# tries: makes a huge file of nothing

import os


def attack():
    os.ftruncate(1, 1 << 40)
    return True
