# ruff: noqa
# tries: changes a module of the standard library

import os


def attack():
    with open(os.__file__, "a") as file:
        file.write("\n")
    return True
