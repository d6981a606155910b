# ruff: noqa
# tries: splits its work between two processes
# reference: {"entry_point": "solve", "cases": [{"args": [20], "returns": 190}]}
# levels: strict

import os


def solve(n):
    a, b = os.pipe()
    if os.fork() == 0:
        os.write(b, str(sum(range(0, n, 2))).encode())
        os._exit(0)
    half = sum(range(1, n, 2))
    os.wait()
    return half + int(os.read(a, 99))
