# ruff: noqa
# tries: recurses in C
# seconds: 3


def attack():
    x = ()
    for _ in range(3_000_000):
        x = (x,)
    return bool(repr(x))
