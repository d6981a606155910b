# ruff: noqa
# tries: starts a command through the C library

import os


def attack():
    return os.system("exit 7") == 7 << 8
