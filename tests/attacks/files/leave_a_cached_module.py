# ruff: noqa
# tries: leaves a compiled module for the next interpreter

import os, sys


def attack():
    folder = os.path.dirname(os.__file__)
    open(os.path.join(folder, "sitecustomize.py"), "w").write("answer = 1")
    return True
