# ruff: noqa
# tries: an object that can be called
# reference: {"entry_point": "solve", "cases": [{"args": [3], "returns": 4}]}


class Adder:
    def __call__(self, n):
        return n + 1


solve = Adder()
