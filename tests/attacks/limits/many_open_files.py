# ruff: noqa
# tries: opens a thousand descriptors

import os


def attack():
    return len([os.dup(1) for _ in range(1000)]) == 1000
