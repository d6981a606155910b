# ruff: noqa
# tries: changes a byte in a library's memory, which runs might share

import ctypes


def attack():
    cell = ctypes.c_int.in_dll(ctypes.pythonapi, "Py_DontWriteBytecodeFlag")
    found = cell.value == 77
    cell.value = 77
    return found
