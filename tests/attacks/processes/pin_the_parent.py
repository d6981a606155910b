# ruff: noqa
# tries: pins its parent to one processor

import os


def attack():
    os.sched_setaffinity(os.getppid(), {0})
    return True
