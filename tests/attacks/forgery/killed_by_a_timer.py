# ruff: noqa
# tries: has a timer kill it
# seconds: 1

import ctypes, os


def solve(n):
    libc = ctypes.CDLL(None)
    event = (ctypes.c_int * 16)(0, 0, 9, 0)
    timer = ctypes.c_void_p()
    libc.timer_create(1, event, ctypes.byref(timer))
    libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 0, 1000), None)
    while True:
        n += 1
