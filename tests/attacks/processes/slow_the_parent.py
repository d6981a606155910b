# ruff: noqa
# tries: takes processor time from its parent

import os


def attack():
    os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)
    return True
