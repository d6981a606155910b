# ruff: noqa
# tries: lists the folders of users

import os


def attack():
    return bool(os.listdir("/home") or True)
