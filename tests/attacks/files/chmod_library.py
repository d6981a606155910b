# ruff: noqa
# tries: changes the rights of a module

import os


def attack():
    os.chmod(os.__file__, 0o777)
    return True
