# ruff: noqa
# tries: remembers what it was asked in the run before


def attack(memory=[]):
    import functools

    functools.wraps.__dict__.setdefault("memory", []).append(1)
    return len(functools.wraps.__dict__["memory"]) > 1
