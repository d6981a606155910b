# ruff: noqa
# tries: spends its time in a regular expression
# seconds: 1

import re


def attack():
    return re.fullmatch("(a+)+b", "a" * 64) is None
