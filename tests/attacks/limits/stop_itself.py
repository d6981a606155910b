# ruff: noqa
# tries: stops itself, so that its processor time stands still
# seconds: 1

import os, signal


def attack():
    os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        pass
