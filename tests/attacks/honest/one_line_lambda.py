# ruff: noqa
# tries: a function that is a lambda
# reference: {"entry_point": "solve", "cases": [{"args": [3], "returns": 9}, {"args": [-2], "returns": 4}]}

solve = lambda n: n * n
