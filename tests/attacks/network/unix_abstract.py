# ruff: noqa
# tries: binds a socket in the abstract name space

import socket


def attack():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.bind("\0payoff")
    return True
