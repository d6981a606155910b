# ruff: noqa
# tries: starts a shell

import subprocess


def attack():
    return subprocess.run(["/bin/sh", "-c", "exit 7"]).returncode == 7
