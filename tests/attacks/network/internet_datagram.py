# ruff: noqa
# tries: opens a UDP socket and sends to a name server

import socket


def attack():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.sendto(b"x", ("8.8.8.8", 53))
    return True
