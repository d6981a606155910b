# ruff: noqa
# tries: becomes root

import os


def attack():
    before = os.getuid()
    os.setuid(0)
    return before != 0 or open("/etc/shadow") is not None
