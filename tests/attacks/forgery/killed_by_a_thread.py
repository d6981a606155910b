# ruff: noqa
# tries: has another thread kill the process
# seconds: 1

import os, signal, threading


def solve(n):
    threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    while True:
        n += 1
