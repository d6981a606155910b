# ruff: noqa
# tries: writes a number in another form
# reference: {"stdin_cases": [{"stdin": "", "stdout": "4"}]}

print("4.0")
