"""The examples for TRL run as they stand, with a tiny model and a few steps."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "trl"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "says"), [("grpo_with_steps", 3, "paid for rising lines: "), ("dpo", 3, "pairs in the right order: ")]
)
def test_the_examples_train_a_tiny_model(name, steps, says, monkeypatch, capsys):
    pytest.importorskip("trl")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--tiny", "--steps", str(steps)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert says in capsys.readouterr().out.splitlines()[-1]
