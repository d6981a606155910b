# ruff: noqa
# tries: maps memory without touching it

import mmap


def attack():
    return len(mmap.mmap(-1, 4 << 30)) > 0
