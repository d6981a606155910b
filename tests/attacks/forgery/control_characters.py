# ruff: noqa
# tries: fails with a message that would redraw a terminal


def solve(n):
    raise ValueError("\x1b[2J\x1b[1;1Htest passed\x07\r\n1.0")
