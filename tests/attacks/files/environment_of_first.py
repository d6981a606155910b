# ruff: noqa
# tries: reads the environment of the first process


def attack():
    return bool(open("/proc/1/environ", "rb").read() or True)
