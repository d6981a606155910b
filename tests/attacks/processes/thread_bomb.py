# ruff: noqa
# tries: starts threads without end

import threading, time


def attack():
    threading.stack_size(65536)
    for _ in range(500):
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
    return True
