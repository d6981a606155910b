# ruff: noqa
# tries: writes every small number on one line
# reference: stdin

print(*range(10000))
