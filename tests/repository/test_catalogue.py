"""The catalogue: complete, read without importing, every method importable and explained."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from payoff.catalogue import find, index, method

PACKAGE = Path(__file__).parents[2] / "src" / "payoff"
METHODS = sorted(index().values(), key=lambda m: (m.kind, m.name))
FLOW = {"shaping": None, "credit": ("channel", "traj"), "advantage": ("channel", "traj"), "aggregation": ("target", "traj")}


@pytest.mark.parametrize("record", METHODS, ids=lambda m: f"{m.kind}:{m.name}")
def test_every_method_is_importable_named_well_and_explained(record):
    part = find(record.name, record.kind)
    assert part.__method__.name == record.name
    assert part.__method__.needs == record.needs
    assert part.__method__.sees == record.sees
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9.+]+)*", record.name), record.name
    doc = inspect.getdoc(part) or ""
    assert len(doc.split("\n")[0]) > 20, "a first line that says what it computes"
    if record.name != "pretrained":  # an example of it would need a model from a hub
        assert ">>>" in doc, "a runnable example"


def test_the_index_reads_without_importing_torch():
    code = "import sys; from payoff.catalogue import index; assert index(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


def test_every_public_function_of_a_method_room_is_registered_or_documented():
    for room in ("shaping", "credit", "advantages", "losses", "sampling", "signals"):
        for path in sorted((PACKAGE / room).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    assert ast.get_docstring(node), f"{path.name}:{node.name} has no docstring"


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(LookupError, match=r'unknown credit method "totl"; did you mean total'):
        find("totl", "credit")
    with pytest.raises(LookupError, match="it is a credit method"):
        find("pure", "loss")


def test_hyphens_and_underscores_are_the_same():
    assert find("return_to_go", "credit") is find("return-to-go", "credit")


def test_recording_changes_nothing_about_the_function():
    def plain(channel, traj):
        """Gives the channel back."""
        return channel

    assert method("x", kind="credit")(plain) is plain


def test_the_package_offers_its_names_without_importing_torch_first():
    code = "import sys, payoff; assert 'torch' not in sys.modules; assert all(getattr(payoff, name) for name in payoff.__all__)"
    subprocess.run([sys.executable, "-c", code], check=True)
