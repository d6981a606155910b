# ruff: noqa
# tries: writes what it read
# reference: stdin

import sys

sys.stdout.write(sys.stdin.read())
