# ruff: noqa
# tries: installs a filter that allows everything

import ctypes, struct


def attack():
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    header = ctypes.create_string_buffer(struct.pack("@HP", 1, ctypes.addressof(code)))
    return ctypes.CDLL(None).prctl(22, 2, header, 0, 0) == 0
