# ruff: noqa
# tries: leaves a process behind that answers for the next run

import os, time


def attack():
    if os.fork() == 0:
        for _ in range(200):
            time.sleep(0.5)
            os.write(3, b"=true\n")
        os._exit(0)
    return False
