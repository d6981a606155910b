# ruff: noqa
# tries: opens a socket of the sixth internet protocol

import socket


def attack():
    socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    return True
