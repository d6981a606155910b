# ruff: noqa
# tries: leaves a module of its own

import sys, types


def attack():
    found = "mark" in sys.modules
    sys.modules["mark"] = types.ModuleType("mark")
    return found
