# ruff: noqa
# tries: writes into the machine's shared memory


def attack():
    open("/dev/shm/payoff-was-here", "w").write("x")
    return True
