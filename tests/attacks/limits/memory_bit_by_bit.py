# ruff: noqa
# tries: takes memory in pieces
# seconds: 4


def attack():
    kept = []
    for _ in range(3000):
        kept.append(bytearray(1 << 20))
    return True
