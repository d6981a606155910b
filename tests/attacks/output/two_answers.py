# ruff: noqa
# tries: writes two answers
# reference: {"stdin_cases": [{"stdin": "", "stdout": "4"}]}

print("4 or 5")
