# ruff: noqa
# tries: lowers the limits of its parent

import os, resource


def attack():
    resource.prlimit(os.getppid() or 2, resource.RLIMIT_NOFILE, (3, 3))
    return True
