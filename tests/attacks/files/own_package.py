# ruff: noqa
# tries: reads the library that runs it

import glob, sys


def attack():
    return any("payoff" in name for path in sys.path + ["/workspace", "/app", "/src", "/home"] for name in glob.glob(path + "/*"))
