# ruff: noqa
# tries: has a child kill the process

import os, signal


def solve(n):
    if os.fork() == 0:
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(0)
    os.wait()
