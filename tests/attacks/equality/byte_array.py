# ruff: noqa
# tries: returns bytes that can be changed
# reference: {"entry_point": "solve", "cases": [{"args": [1], "returns": {"$bytes": "61"}}]}


def solve(n):
    return bytearray(b"a")
