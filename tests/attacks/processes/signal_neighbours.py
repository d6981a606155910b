# ruff: noqa
# tries: probes for other processes by signals

import os


def attack():
    for pid in range(2, 40000):
        if pid != os.getpid():
            try:
                os.kill(pid, 0)
                return True
            except OSError:
                pass
    return False
