# ruff: noqa
# tries: sleeps through the limit
# seconds: 1

import time


def attack():
    time.sleep(100)
    return True
