# ruff: noqa
# tries: calls its variables by the names of builtins
# reference: {"entry_point": "solve", "cases": [{"args": [[3, 1, 2]], "returns": 6}]}


def solve(list):
    type, id, print, len, open = 0, 1, 2, 3, 4
    sum = 0
    for str in list:
        sum += str
    return sum
