# ruff: noqa
# tries: leaves a file where it was started

import os


def attack():
    found = os.path.exists("mark")
    open("mark", "w").close()
    return found
