"""The layout of the server's memory: all works as before it, and where the kernel refuses it, everything stays as it was."""

import subprocess
import sys
from pathlib import Path

import pytest

from payoff.sandbox import kernel

ROOT = str(Path(__file__).parents[2] / "src")
# Counts what is mapped, and runs code of many kinds afterwards; under a filter that refuses a call, if one is named by its number.
LAID_OUT = """
import sys; sys.path.insert(0, {root!r})
import errno, struct
from payoff.sandbox import kernel, memory, steps
if {refused} >= 0:
    lines = [(0x20, 0, 0, 0), (0x15, 0, 1, {refused}), (0x06, 0, 0, 0x00050000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000)]
    kernel.no_new_privileges()
    kernel.Filter(b"".join(struct.pack("<HBBI", *line) for line in lines)).install()
import ast, ctypes, decimal, json, random, re, typing
layout, table = memory.Layout(), steps.Table(1 << 16)
names = lambda: {{name for _, _, _, name in layout.ranges() if name.startswith("/")}}
before, files = len(layout.ranges()), names()
layout.gather(table)
after, fewer = len(layout.ranges()), files - names()
assert json.loads(json.dumps([re.sub("a+", "b", "aab")])) == ["bb"]
assert decimal.Decimal(2).sqrt() ** 2 != ast.literal_eval("2.5") and sorted(range(9), key=lambda k: -k)[0] == 8
assert ctypes.string_at(b"whole") == b"whole" and len([bytearray(k << 12) for k in range(300)]) == 300
import sqlite3, multiprocessing.connection  # and machine code that comes later
assert sqlite3.connect(":memory:").execute("select 6 * 7").fetchone() == (42,)
print(len(layout.runs), len(fewer), before, after, layout.addresses)
"""


def laid_out(refused: int = -1) -> tuple[int, ...]:
    code = LAID_OUT.format(root=ROOT, refused=refused)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(map(int, done.stdout.split()))


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
def test_the_interpreter_goes_on_from_fewer_parts():
    runs, fewer, before, after, addresses = laid_out()
    if kernel.MACHINE == "x86_64":  # elsewhere nothing is moved
        assert runs
        assert fewer
        assert after < before / 2
        assert addresses < 16 << 20


@pytest.mark.skipif(not kernel.SUPPORTED, reason="filters are written for x86_64 and aarch64")
@pytest.mark.parametrize("call", ["madvise", "mremap"])
def test_where_the_kernel_refuses_the_program_stays_where_it_was(call):
    runs, fewer, before, after, _ = laid_out(kernel.number(call))
    assert (runs, fewer) == (0, 0)
    assert after <= before + 1  # what the heap had grown to
