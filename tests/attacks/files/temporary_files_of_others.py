# ruff: noqa
# tries: finds what others left in the temporary folder

import os


def attack():
    return bool(os.listdir("/tmp"))
