# ruff: noqa
# tries: writes a number with a huge exponent

import os


def solve(n):
    os.write(3, b'=["f","0x1p+999999999999"]\n=["f","1e999"]\n=1e999999\n')
    os._exit(0)
