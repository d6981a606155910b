# ruff: noqa
# tries: writes a set of lists

import os


def solve(n):
    os.write(3, b'=["s",["l",1]]\n=["d",[["l"],1]]\n=["q",1]\n=[]\n=["c","0x1p0"]\n')
    os._exit(0)
