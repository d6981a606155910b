# ruff: noqa
# tries: returns one of every type that is plain
# reference: {"entry_point": "solve", "cases": [{"args": [], "returns": [null, true, 1, 0.5, "a", {"$bytes": "00ff"}, {"$tuple": [1, [2]]}, {"$set": [1, "a"]}, {"$frozenset": [2]}, {"$complex": [1, -2]}, {"$dict": [[1, {"$float": "inf"}], [{"$tuple": [1]}, "b"]]}]}]}


def solve():
    return [None, True, 1, 0.5, "a", b"\0\xff", (1, [2]), {1, "a"}, frozenset({2}), 1 - 2j, {1: float("inf"), (1,): "b"}]
