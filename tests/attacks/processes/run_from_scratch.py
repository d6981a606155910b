# ruff: noqa
# tries: writes a program of its own and starts it

import os


def attack():
    with open("/tmp/x", "w") as file:
        file.write("#!/usr/bin/env python3\nprint(1)\n")
    os.chmod("/tmp/x", 0o700)
    if os.fork() == 0:
        os.execv("/tmp/x", ["x"])
    return os.wait()[1] == 0
