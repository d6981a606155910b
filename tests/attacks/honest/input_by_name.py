# ruff: noqa
# tries: opens standard input by its number and its name
# reference: {"stdin_cases": [{"stdin": "5 6", "stdout": "11"}]}
# levels: strict

print(sum(map(int, open("/dev/stdin").read().split())))
