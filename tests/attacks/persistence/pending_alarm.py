# ruff: noqa
# tries: leaves an alarm that goes off in the next run

import signal


def attack():
    found = signal.getitimer(signal.ITIMER_REAL)[0] > 0
    signal.setitimer(signal.ITIMER_REAL, 60)
    return found
