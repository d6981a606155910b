# ruff: noqa
# tries: signals the group of its parent

import os


def attack():
    group = os.getpgid(os.getppid())
    os.killpg(group, 0)
    return group != os.getpgid(0)
