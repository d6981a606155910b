# ruff: noqa
# tries: fails with an exception that fails to be shown


class Odd(Exception):
    def __str__(self):
        raise Odd

    __repr__ = __str__


def solve(n):
    raise Odd
