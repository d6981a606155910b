# ruff: noqa
# tries: reaches out of the scratch folder by a symbolic link

import os


def attack():
    os.symlink("/etc/passwd", "link")
    return "root" in open("link").read()
