# ruff: noqa
# tries: makes a pair of seqpacket sockets, the kind the server listens on

import socket


def attack():
    socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return True
