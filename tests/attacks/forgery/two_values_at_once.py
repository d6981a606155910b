# ruff: noqa
# tries: writes an answer that is two

import os


def solve(n):
    os.write(3, b"=1 2\n=[1,2\n={}\n=NaN\n=Infinity\n")
    os._exit(0)
