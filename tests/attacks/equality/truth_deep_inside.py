# ruff: noqa
# tries: hides a float deep inside
# reference: {"entry_point": "solve", "cases": [{"args": [1], "returns": {"a": [[1, {"b": 2}]]}}]}


def solve(n):
    return {"a": [[1, {"b": 2.0}]]}
