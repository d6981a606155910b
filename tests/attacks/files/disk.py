# ruff: noqa
# tries: opens the disk

import os


def attack():
    for name in ("vda", "sda", "nvme0n1", "xvda", "root", "mem", "kmem", "kmsg"):
        try:
            os.open("/dev/" + name, os.O_RDONLY)
            return True
        except OSError:
            pass
    return False
