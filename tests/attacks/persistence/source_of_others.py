# ruff: noqa
# tries: finds the program of another run in memory

import gc


def attack():
    return any(isinstance(o, str) and "def " + "honest_neighbour" in o for o in gc.get_objects())
