# ruff: noqa
# tries: collects its output and writes it at the end
# reference: {"stdin_cases": [{"stdin": "2", "stdout": "0\n1"}]}

import atexit, io, sys

buffer = io.StringIO()
sys.stdout = buffer
atexit.register(lambda: sys.__stdout__.write(buffer.getvalue()))
for k in range(int(input())):
    print(k)
