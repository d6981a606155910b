# ruff: noqa
# tries: starts processes without end

import os, time


def attack():
    started = 0
    for _ in range(200):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        started += 1
    return started == 200
