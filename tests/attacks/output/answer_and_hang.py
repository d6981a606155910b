# ruff: noqa
# tries: writes the answer and never ends
# reference: {"stdin_cases": [{"stdin": "", "stdout": "4"}]}
# seconds: 1

import sys

print("4")
sys.stdout.flush()
while True:
    pass
