# ruff: noqa
# tries: writes through a stream of its own that is never closed
# reference: {"stdin_cases": [{"stdin": "2", "stdout": "0\n1"}]}

import io, os, sys

sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), write_through=False)
for k in range(int(sys.stdin.readline())):
    print(k)
