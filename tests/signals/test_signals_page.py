"""docs/signals.md has every grader and signal there is, and none that there is not."""

import re
from pathlib import Path

from payoff.catalogue import index

PAGE = (Path(__file__).parents[2] / "docs" / "signals.md").read_text(encoding="utf-8")
KINDS = ("grader", "signal")


def test_every_grader_and_signal_is_on_the_page():
    named = set(re.findall(r"`([a-z0-9][a-z0-9.-]*)`", PAGE))
    assert {name for kind, name in index() if kind in KINDS} - named == set()


def test_every_row_of_a_table_of_graders_names_methods_that_exist():
    rows = re.findall(r"^\| (`[^|]+`) \| (grader|signal|shaping)", PAGE, flags=re.MULTILINE)
    for names, kind in rows:
        for name in re.findall(r"`([^`]+)`", names):
            assert (kind, name) in index(), f"{kind} {name}"
    assert len(rows) > 40
