# ruff: noqa
# tries: has the kernel signal another process when a pipe is ready

import fcntl, os


def attack():
    a, _ = os.pipe()
    fcntl.fcntl(a, fcntl.F_SETOWN, os.getppid() or 2)
    return True
