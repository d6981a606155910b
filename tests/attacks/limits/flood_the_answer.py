# ruff: noqa
# tries: returns more than can be returned
# seconds: 4


def attack():
    return [True] * 10_000_000
