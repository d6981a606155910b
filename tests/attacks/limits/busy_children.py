# ruff: noqa
# tries: spreads its work over children
# seconds: 2

import os, time


def attack():
    for _ in range(3):
        if os.fork() == 0:
            while True:
                pass
    while True:
        pass
