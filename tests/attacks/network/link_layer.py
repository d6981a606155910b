# ruff: noqa
# tries: opens a packet socket below the internet

import socket


def attack():
    socket.socket(17, socket.SOCK_RAW, socket.htons(3))
    return True
