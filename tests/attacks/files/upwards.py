# ruff: noqa
# tries: climbs out by dots


def attack():
    return "root" in open("../" * 40 + "etc/passwd").read()
