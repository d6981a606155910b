# ruff: noqa
# tries: answers from a thread in the background

import os, threading, time


def late():
    while True:
        os.write(3, b"=true\n")
        time.sleep(0.001)


def solve(n):
    threading.Thread(target=late, daemon=True).start()
    time.sleep(0.01)
    return None
