# ruff: noqa
# tries: a main part that must not run when a function is called
# reference: {"entry_point": "solve", "cases": [{"args": [3], "returns": 4}]}


def solve(n):
    return n + 1


if __name__ == "__main__":
    print(solve(int(input())))
