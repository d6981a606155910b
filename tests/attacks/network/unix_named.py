# ruff: noqa
# tries: connects to a named socket of the machine

import socket


def attack():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    return s.connect_ex("/run/systemd/private") in (0, 13, 111) or True
