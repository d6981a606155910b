# ruff: noqa
# tries: takes memory in many processes together
# seconds: 4

import os, time


def attack():
    for _ in range(8):
        if os.fork() == 0:
            block = bytearray(300 << 20)
            for at in range(0, len(block), 4096):
                block[at] = 1
            time.sleep(3)
            os._exit(0)
    return all(os.wait()[1] == 0 for _ in range(8))
