# ruff: noqa
# tries: looks for the container engine

import os


def attack():
    return os.open("/var/run/docker.sock", os.O_PATH) >= 0
