# ruff: noqa
# tries: opens a TCP socket

import socket


def attack():
    socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    return True
