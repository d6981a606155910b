# ruff: noqa
# tries: finds the input of another run in front of its own

import os


def attack():
    return os.fstat(0).st_size > 0 and os.lseek(0, 0, os.SEEK_CUR) > 0
