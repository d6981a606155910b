# ruff: noqa
# tries: writes without end

import os


def attack():
    for _ in range(100):
        if os.write(1, bytes(1 << 20)) != 1 << 20:
            return False
    return True
