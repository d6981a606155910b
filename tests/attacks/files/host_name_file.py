# ruff: noqa
# tries: reads a file of the machine's configuration


def attack():
    return bool(open("/etc/hostname").read() or True)
