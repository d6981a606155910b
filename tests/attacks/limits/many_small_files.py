# ruff: noqa
# tries: fills the scratch folder with names


def attack():
    for k in range(100_000):
        open(f"/tmp/{k}", "w").close()
    return True
