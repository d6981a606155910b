# ruff: noqa
# tries: writes its memory through a file


def attack():
    open("/proc/self/mem", "r+b", buffering=0)
    return True
