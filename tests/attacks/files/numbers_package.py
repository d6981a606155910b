# ruff: noqa
# tries: imports a package of numbers


def attack():
    import numpy

    return bool(numpy)
