# ruff: noqa
# tries: aborts

import os


def solve(n):
    os.abort()
