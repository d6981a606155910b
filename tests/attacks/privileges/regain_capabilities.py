# ruff: noqa
# tries: takes back what capabilities it had

import ctypes, struct, platform


def attack():
    head = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(struct.pack("6I", *[0xFFFFFFFF] * 6))
    return ctypes.CDLL(None).syscall(126 if platform.machine() == "x86_64" else 91, head, data) == 0
