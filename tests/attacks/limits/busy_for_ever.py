# ruff: noqa
# tries: never ends
# seconds: 1


def attack():
    while True:
        pass
