# ruff: noqa
# tries: builds its function out of text
# reference: {"entry_point": "solve", "cases": [{"args": [3], "returns": 7}]}

exec(compile("def solve(n):\n    return eval('n * 2 + 1')", "made", "exec"))
