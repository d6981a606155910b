# ruff: noqa
# tries: writes the answer without end
# seconds: 2
# reference: {"stdin_cases": [{"stdin": "", "stdout": "4"}]}

while True:
    print("4")
