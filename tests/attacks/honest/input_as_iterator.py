# ruff: noqa
# tries: reads lines until there are none
# reference: {"stdin_cases": [{"stdin": "a\nb\n\nc", "stdout": "c\n\nb\na"}]}

import sys

print("\n".join(line.rstrip("\n") for line in reversed(list(sys.stdin))))
