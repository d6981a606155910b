# ruff: noqa
# tries: writes bytes that are no text
# reference: {"stdin_cases": [{"stdin": "", "stdout": "4"}]}

import sys

sys.stdout.buffer.write(b"4\xff\xfe")
