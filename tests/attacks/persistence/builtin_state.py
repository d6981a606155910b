# ruff: noqa
# tries: leaves a mark among the builtins

import builtins


def attack():
    found = hasattr(builtins, "mark")
    builtins.mark = 1
    return found
