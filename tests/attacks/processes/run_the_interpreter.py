# ruff: noqa
# tries: starts another interpreter

import subprocess, sys


def attack():
    return subprocess.run([sys.executable or "/usr/bin/python3", "-c", "print(1)"], capture_output=True).stdout == b"1\n"
