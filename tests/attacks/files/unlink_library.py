# ruff: noqa
# tries: removes a module of the standard library

import os


def attack():
    os.unlink(os.__file__)
    return True
