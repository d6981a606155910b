# ruff: noqa
# tries: writes answers before anything is asked

import os

os.write(3, b"@\n" + b"=true\n" * 10)
os._exit(0)
