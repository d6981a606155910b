"""What a run's processes hold together, seen from outside."""

import os
import subprocess
import sys

from payoff.sandbox.processes import Processes

HOLDS = "import subprocess, sys; b = bytearray(32 << 20); {more}; print(1, flush=True); sys.stdin.read()"
AND_A_CHILD = "p = subprocess.Popen([sys.executable, '-c', 'b = bytearray(32 << 20); print(1); import sys; sys.stdin.read()'])"


def test_memory_of_all_below_is_added_up_but_for_what_was_there_before():
    looking = Processes(os.open("/proc", os.O_PATH | os.O_DIRECTORY))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS.format(more=AND_A_CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert [process.stdout.readline(), process.stdout.readline()] == ["1\n", "1\n"]
        held = looking.held_below(process.pid, 0)
        assert 64 << 20 <= held < 120 << 20
        assert held - looking.held_below(process.pid, 10 << 20) == 20 << 20  # of each of the two
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
    assert looking.held_below(process.pid, 0) == 0
