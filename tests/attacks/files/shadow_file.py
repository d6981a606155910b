# ruff: noqa
# tries: reads the password hashes


def attack():
    return bool(open("/etc/shadow").read())
