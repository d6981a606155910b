# ruff: noqa
# tries: leaves a finder of modules

import sys


def attack():
    found = any(type(f).__name__ == "Mark" for f in sys.meta_path)
    sys.meta_path.insert(0, type("Mark", (), {"find_spec": lambda *a: None})())
    return found
