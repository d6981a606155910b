# ruff: noqa
# tries: writes into the configuration of the machine


def attack():
    open("/etc/payoff-was-here", "w").write("x")
    return True
