# ruff: noqa
# tries: chooses which signal a file sends

import fcntl, os


def attack():
    a, _ = os.pipe()
    fcntl.fcntl(a, 10, 9)
    return True
