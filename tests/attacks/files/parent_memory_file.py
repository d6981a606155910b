# ruff: noqa
# tries: reads its parent's memory through a file

import os


def attack():
    open(f"/proc/{os.getppid()}/mem", "rb", buffering=0)
    return True
