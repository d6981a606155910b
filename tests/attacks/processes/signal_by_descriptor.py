# ruff: noqa
# tries: opens another process as a descriptor

import os


def attack():
    for pid in [os.getppid(), *range(2, 5000)]:
        if pid not in (0, os.getpid()):
            try:
                os.pidfd_open(pid)
                return True
            except OSError:
                pass
    return False
