# ruff: noqa
# tries: prints what it does
# reference: {"entry_point": "solve", "cases": [{"args": [3], "returns": 4}]}


def solve(n):
    print("solving", n)
    print("=true", flush=True)
    return n + 1
