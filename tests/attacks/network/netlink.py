# ruff: noqa
# tries: asks the kernel for its interfaces

import socket


def attack():
    socket.socket(16, socket.SOCK_RAW, 0)
    return True
