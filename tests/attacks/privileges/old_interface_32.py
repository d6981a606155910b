# ruff: noqa
# tries: makes system calls by the numbers of 32-bit programs

import ctypes, mmap, platform


def attack():
    if platform.machine() != "x86_64":
        raise SystemExit
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    call = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return call() > 0
