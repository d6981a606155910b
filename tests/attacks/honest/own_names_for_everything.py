# ruff: noqa
# tries: defines functions called like those of the runner
# reference: {"entry_point": "run", "cases": [{"args": [2], "returns": 4}]}


def dump(x):
    return x


def main():
    return 0


def child():
    return 1


def run(n):
    return dump(n) * 2
