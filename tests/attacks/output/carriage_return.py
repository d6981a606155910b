# ruff: noqa
# tries: overwrites a wrong answer on a screen
# reference: {"stdin_cases": [{"stdin": "", "stdout": "4"}]}

print("5\r4")
