# ruff: noqa
# tries: raises and catches, and exits only within
# reference: {"entry_point": "solve", "cases": [{"args": [3], "returns": "SystemExit"}]}

import sys


def solve(n):
    try:
        sys.exit(n)
    except BaseException as error:
        return type(error).__name__
