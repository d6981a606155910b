# ruff: noqa
# tries: leaves a process behind that the next run meets

import os, time


def attack():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
    for pid in range(2, 64):
        try:
            if os.getsid(pid) != os.getsid(0) and os.kill(pid, 0) is None and pid > 4:
                return True
        except OSError:
            pass
    return False
