# ruff: noqa
# tries: leaves a signal handler

import signal


def attack():
    found = signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN, None)
    signal.signal(signal.SIGUSR1, print)
    return found
