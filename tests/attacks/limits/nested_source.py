# ruff: noqa
# tries: is nested deeper than the compiler can follow


def attack():
    return eval("(" * 100_000 + "True" + ")" * 100_000)
