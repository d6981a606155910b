# ruff: noqa
# tries: complains on the other stream
# reference: {"stdin_cases": [{"stdin": "", "stdout": "4"}]}

import sys, warnings

warnings.warn("odd")
print("working", file=sys.stderr)
print(4)
