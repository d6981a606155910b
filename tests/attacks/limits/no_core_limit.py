# ruff: noqa
# tries: asks for core files

import resource


def attack():
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    return True
