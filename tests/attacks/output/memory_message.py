# ruff: noqa
# tries: fails in the name of want of memory
# reference: stdin

raise MemoryError
