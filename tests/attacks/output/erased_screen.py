# ruff: noqa
# tries: writes controls that would erase a wrong answer on a screen
# reference: {"stdin_cases": [{"stdin": "", "stdout": "4"}]}

print("5\b4")
