# ruff: noqa
# tries: writes every small number on a line
# reference: stdin

print("\n".join(map(str, range(10000))))
