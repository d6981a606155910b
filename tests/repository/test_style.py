"""The linter and the formatter have nothing to say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=["check", "format"])
def test_ruff_has_nothing_to_say(command):
    pytest.importorskip("ruff")
    folders = ["src", "tests", "benchmarks"]
    found = subprocess.run([sys.executable, "-m", "ruff", *command, *folders], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
