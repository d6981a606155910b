# ruff: noqa
# tries: reads lines with input()
# reference: {"stdin_cases": [{"stdin": "3\n4\n", "stdout": "7\n"}, {"stdin": "1\n1", "stdout": "2"}]}

a = int(input())
b = int(input())
print(a + b)
