# ruff: noqa
# tries: makes a pipe as large as memory

import fcntl, os


def attack():
    return fcntl.fcntl(os.pipe()[1], 1031, 1 << 26) > 0
