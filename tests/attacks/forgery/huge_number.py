# ruff: noqa
# tries: writes a number with so many digits that reading it takes for ever

import os


def solve(n):
    os.write(3, b"=" + b"9" * 900_000 + b"\n")
    os._exit(0)
