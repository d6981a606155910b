# ruff: noqa
# tries: leaves a folder without rights, which a cleaner might not enter

import os


def attack():
    found = os.path.exists("/tmp/.mark")
    os.mkdir("/tmp/.mark", 0)
    return found
