# ruff: noqa
# tries: leaves a function that sees every line of the next run

import sys


def attack():
    found = sys.gettrace() is not None
    sys.settrace(lambda *a: None)
    return found
