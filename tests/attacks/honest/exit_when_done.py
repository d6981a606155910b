# ruff: noqa
# tries: ends by exit() after its output
# reference: {"stdin_cases": [{"stdin": "2", "stdout": "2"}]}

print(input())
exit()
