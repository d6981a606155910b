# ruff: noqa
# tries: becomes root in all three ways

import os


def attack():
    os.setresuid(0, 0, 0)
    return True
