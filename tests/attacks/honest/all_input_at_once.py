# ruff: noqa
# tries: reads all of standard input as bytes
# reference: {"stdin_cases": [{"stdin": "3\n1 2 3\n", "stdout": "6"}]}

import os, sys

data = os.read(0, os.fstat(0).st_size).split()
sys.stdout.write(str(sum(map(int, data[1:]))))
