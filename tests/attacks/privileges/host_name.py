# ruff: noqa
# tries: learns the name of the machine

import os, ctypes


def attack():
    ctypes.CDLL(None).sethostname(b"payoff", 6)
    return os.uname().nodename == "payoff"
