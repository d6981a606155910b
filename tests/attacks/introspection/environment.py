# ruff: noqa
# tries: reads its environment

import os


def solve(n):
    return dict(os.environ)
