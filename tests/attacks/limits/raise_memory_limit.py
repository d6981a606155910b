# ruff: noqa
# tries: raises its own limit of memory

import resource


def attack():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return True
