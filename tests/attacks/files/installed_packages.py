# ruff: noqa
# tries: imports what is installed on the machine


def attack():
    import torch

    return bool(torch)
