# ruff: noqa
# tries: writes nothing
# reference: stdin

pass
