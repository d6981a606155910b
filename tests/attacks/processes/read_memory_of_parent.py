# ruff: noqa
# tries: copies its parent's memory

import ctypes, os


def attack():
    buffer = ctypes.create_string_buffer(8)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    remote = (ctypes.c_size_t * 2)(0x400000, 8)
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.process_vm_readv(os.getppid() or os.getpid(), local, 1, remote, 1, 0)
    return done >= 0 or ctypes.get_errno() != 1
