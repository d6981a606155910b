# ruff: noqa
# tries: kills its parent

import os, signal


def attack():
    parent = os.getppid()
    if parent == 0:
        return False
    os.kill(parent, 0)
    return True
