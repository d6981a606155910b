# ruff: noqa
# tries: uses a file of its own for work
# reference: {"entry_point": "solve", "cases": [{"args": ["x"], "returns": "xx"}]}
# levels: strict

import tempfile, os


def solve(text):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "work")
        with open(path, "w") as file:
            file.write(text * 2)
        with open(path) as file:
            return file.read()
