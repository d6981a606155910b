# ruff: noqa
# tries: links a file of the machine into the scratch folder

import os


def attack():
    os.link("/etc/passwd", "link")
    return True
