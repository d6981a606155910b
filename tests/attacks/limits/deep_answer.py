# ruff: noqa
# tries: returns lists in lists


def attack():
    x = True
    for _ in range(100_000):
        x = [x]
    return x
