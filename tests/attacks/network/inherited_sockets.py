# ruff: noqa
# tries: uses any descriptor that is a socket

import os, stat


def attack():
    for fd in range(256):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                return True
        except OSError:
            pass
    return False
