# ruff: noqa
# tries: lowers a limit of its own until it is killed
# seconds: 2

import resource


def solve(n):
    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
    while True:
        pass
