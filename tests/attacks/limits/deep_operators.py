# ruff: noqa
# tries: makes the compiler recurse


def attack():
    return eval("-" * 500_000 + "1") is not None
