# ruff: noqa
# tries: leaves something to do at the end

import atexit


def attack():
    found = atexit._ncallbacks() > 30
    for _ in range(100):
        atexit.register(print)
    return found
