# ruff: noqa
# tries: leaves an environment variable

import os


def attack():
    found = "MARK" in os.environ
    os.environ["MARK"] = "1"
    return found
