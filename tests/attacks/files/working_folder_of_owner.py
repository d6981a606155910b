# ruff: noqa
# tries: lists the folder in which the owner was started

import os


def attack():
    return any(os.path.exists(name) for name in ("pyproject.toml", "rows.jsonl", "src", "tests"))
