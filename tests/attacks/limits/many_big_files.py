# ruff: noqa
# tries: fills the scratch folder with several files


def attack():
    for k in range(8):
        with open(f"/tmp/{k}", "wb") as file:
            file.write(bytes(8 << 20))
    return True
