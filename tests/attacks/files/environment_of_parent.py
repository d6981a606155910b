# ruff: noqa
# tries: reads the environment of its parent

import os


def attack():
    return bool(open(f"/proc/{os.getppid()}/environ", "rb").read() or True)
