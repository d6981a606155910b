# ruff: noqa
# tries: makes a pair of datagram sockets, which could send to any named one

import socket


def attack():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    a.sendto(b"x", "/dev/log")
    return True
