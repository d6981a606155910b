# ruff: noqa
# tries: makes the node of a device

import os, stat


def attack():
    os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(254, 0))
    return True
