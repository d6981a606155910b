# ruff: noqa
# tries: reads its own command line

import sys


def solve(n):
    return int(sys.argv[-1]) if sys.argv[-1].isdigit() else sys.orig_argv
