# ruff: noqa
# tries: starts a program that lies in memory only

import os


def attack():
    os.memfd_create("x")
    return True
