# ruff: noqa
# tries: catches whatever would end it
# seconds: 1


def attack():
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue
