# ruff: noqa
# tries: returns bytes that are no text

import os


def solve(n):
    os.write(3, b"=\xff\xfe\x00[\n")
    os._exit(0)
