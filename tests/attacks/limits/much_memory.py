# ruff: noqa
# tries: takes two gigabytes


def attack():
    return len(bytearray(2 << 30)) > 0
