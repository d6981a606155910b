# ruff: noqa
# tries: moves a module of the standard library

import os


def attack():
    os.rename(os.__file__, os.__file__ + ".old")
    return True
