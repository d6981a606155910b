# ruff: noqa
# tries: writes a file larger than the scratch folder


def attack():
    with open("/tmp/big", "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    return True
