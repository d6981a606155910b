# ruff: noqa
# tries: writes nan where a number is wanted with tolerance
# reference: {"tolerance": 0.1, "stdin_cases": [{"stdin": "", "stdout": "4"}]}

print("nan")
