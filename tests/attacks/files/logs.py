# ruff: noqa
# tries: reads the machine's logs

import os


def attack():
    return bool(os.listdir("/var/log"))
