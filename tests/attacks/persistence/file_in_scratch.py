# ruff: noqa
# tries: leaves a file in the scratch folder and finds it in the next run

import os


def attack():
    found = os.path.exists("/tmp/mark")
    open("/tmp/mark", "w").close()
    return found
