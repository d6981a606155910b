# ruff: noqa
# tries: returns a list that holds itself


def attack():
    x = [True]
    x.append(x)
    return x
