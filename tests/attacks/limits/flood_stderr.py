# ruff: noqa
# tries: writes errors without end

import os


def attack():
    for _ in range(100):
        if os.write(2, bytes(1 << 20)) != 1 << 20:
            return False
    return True
