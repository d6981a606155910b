# ruff: noqa
# tries: renames the machine

import socket


def attack():
    socket.sethostname("mine")
    return True
