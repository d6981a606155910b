# ruff: noqa
# tries: raises its own limit of open files

import resource


def attack():
    resource.setrlimit(resource.RLIMIT_NOFILE, (100000, 100000))
    return True
