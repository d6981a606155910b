"""What the annotations say holds by themselves, without running anything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_mypy_finds_no_type_error_in_the_package():
    pytest.importorskip("mypy")
    found = subprocess.run([sys.executable, "-m", "mypy", "src/payoff"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
