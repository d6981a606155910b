# ruff: noqa
# tries: joins the group of root

import os


def attack():
    os.setgroups([0])
    return True
