# ruff: noqa
# tries: opens a raw socket

import socket


def attack():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    return True
