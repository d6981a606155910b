# ruff: noqa
# tries: counts its calls in a global variable
# reference: {"entry_point": "solve", "cases": [{"args": [], "returns": 1}, {"args": [], "returns": 2}]}

count = 0


def solve():
    global count
    count += 1
    return count
