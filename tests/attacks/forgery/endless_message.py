# ruff: noqa
# tries: fails with a message that never ends
# seconds: 4


class Long(Exception):
    def __str__(self):
        return "x" * 100_000_000


def solve(n):
    raise Long
