# ruff: noqa
# tries: asks to be scheduled before everyone

import os


def attack():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return True
