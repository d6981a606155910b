# ruff: noqa
# tries: has any capability at all

import ctypes, struct


def attack():
    head = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(24)
    ctypes.CDLL(None).capget(head, data)
    return any(struct.unpack("6I", data.raw[:24]))
