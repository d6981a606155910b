# ruff: noqa
# tries: reads the list of users


def attack():
    return "root" in open("/etc/passwd").read()
