# ruff: noqa
# tries: opens the kernel's cryptography by a socket

import socket


def attack():
    socket.socket(38, socket.SOCK_SEQPACKET)
    return True
