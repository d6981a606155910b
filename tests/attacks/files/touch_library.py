# ruff: noqa
# tries: changes the time of a module

import os


def attack():
    os.utime(os.__file__, (0, 0))
    return True
