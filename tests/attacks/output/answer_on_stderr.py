# ruff: noqa
# tries: writes the answer to the wrong stream
# reference: {"stdin_cases": [{"stdin": "", "stdout": "4"}]}

import sys

print("4", file=sys.stderr)
