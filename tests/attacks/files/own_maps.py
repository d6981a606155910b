# ruff: noqa
# tries: reads its own memory map


def attack():
    return bool(open("/proc/self/maps").read())
