# ruff: noqa
# tries: changes its parent's memory

import ctypes, os


def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.process_vm_writev(os.getppid() or os.getpid(), None, 0, None, 0, 0)
    return ctypes.get_errno() != 1
