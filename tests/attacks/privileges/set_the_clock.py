# ruff: noqa
# tries: sets the clock

import time


def attack():
    time.clock_settime(time.CLOCK_REALTIME, time.time())
    return True
