# ruff: noqa
# tries: spends its time in one call that cannot be interrupted
# seconds: 1


def attack():
    return 7 ** (10**9) > 0
