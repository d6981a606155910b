# ruff: noqa
# tries: makes a folder at the top

import os


def attack():
    os.mkdir("/payoff-was-here")
    return True
