# ruff: noqa
# tries: replaces itself by another program

import os


def attack():
    os.execv("/bin/true", ["true"])
