# ruff: noqa
# tries: reads a file of a home folder

import glob, os


def attack():
    for folder in ("/root", "/home/*", os.path.expanduser("~")):
        for path in glob.glob(folder + "/.*") + glob.glob(folder + "/*"):
            if os.path.isfile(path) and open(path, "rb").read(1):
                return True
    return False
