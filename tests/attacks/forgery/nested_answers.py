# ruff: noqa
# tries: writes an answer nested so deep that reading it overflows

import os


def solve(n):
    os.write(3, b"=" + b'["l",' * 100_000 + b"1" + b"]" * 100_000 + b"\n")
    os._exit(0)
