# ruff: noqa
# tries: reads answers from standard input

import sys


def solve(n):
    return sys.stdin.read()
