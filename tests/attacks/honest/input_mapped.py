# ruff: noqa
# tries: maps standard input into memory
# reference: {"stdin_cases": [{"stdin": "5 6", "stdout": "11"}]}

import mmap

print(sum(map(int, mmap.mmap(0, 0, access=mmap.ACCESS_READ).read().split())))
