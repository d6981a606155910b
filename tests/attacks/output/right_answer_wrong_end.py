# ruff: noqa
# tries: writes the answer and then fails
# reference: {"stdin_cases": [{"stdin": "", "stdout": "4"}]}

print("4")
raise ValueError
