# ruff: noqa
# tries: opens a socket to the hypervisor

import socket


def attack():
    socket.socket(40, socket.SOCK_STREAM)
    return True
