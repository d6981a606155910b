"""The ledger in docs is what the stored results say, and turns stale with the code."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from payoff.ledger import effect_sentence, index_page, recipe_page, summary, write_ledger
from payoff.ledger_plot import plot
from payoff.reproduction import stored_results

DOCS = Path(__file__).parents[2] / "docs"
STORED = stored_results()
EFFECT = {
    "measure": "truth",
    "arm": "new",
    "baseline": "old",
    "claims": "higher",
    "delta": 0.05,
    "size": 0.0,
    "unit": "a share",
    "value": 0.1,
    "low": 0.02,
    "high": 0.18,
    "level": 0.95,
    "method": "paired t",
    "n": 3,
    "verdict": "reproduced",
    "note": "",
    "by_seed": {"0": 0.08, "1": 0.1, "2": 0.12},
}
RUN = {"status": "finished", "seconds": 1.0, "error": None}
RESULTS = {
    "recipe": "toy",
    "claim": "New beats old | at times.",
    "paper": "arXiv:0000.00000",
    "test": "Arithmetic.",
    "methods": ["credit:total"],
    "measures": {"truth": "a share"},
    "status": "finished",
    "verdict": "reproduced",
    "effects": [EFFECT],
    "arms": {
        "old": {"description": "nothing", "seeds": {str(s): {**RUN, "numbers": {"truth": 0.5}} for s in range(3)}},
        "new": {
            "description": "<b>something</b>",
            "seeds": {str(s): {**RUN, "numbers": {"truth": 0.58 + s / 50}} for s in range(3)},
        },
    },
    "arguments": {"updates": 5},
    "own_budget": True,
    "code": "abc",
    "payoff": "0.1.0",
    "versions": {"python": "3.11", "torch": "2.13"},
    "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
    "command": "payoff reproduce toy",
    "created": "2026-11-21T12:00:00+00:00",
    "seconds": 6.0,
}


def test_the_ledger_in_docs_is_the_one_that_the_stored_results_give_and_pages_of_recipes_that_are_gone_are_removed(tmp_path):
    (tmp_path / "reproductions").mkdir()
    (tmp_path / "reproductions" / "gone.md").write_text("old")
    written = {str(path.relative_to(tmp_path)): path.read_text(encoding="utf-8") for path in write_ledger(tmp_path)}
    for pages in (tmp_path, DOCS):
        there = {f"reproductions/{path.name}" for path in (pages / "reproductions").iterdir()}
        assert there | {"reproductions.md"} == set(written), "payoff reproduce --ledger"
    for name, text in written.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"{name}: payoff reproduce --ledger"


def test_results_of_other_code_are_shown_as_stale():
    assert "**reproduced** |" in index_page({"toy": RESULTS}, {"toy": "abc"})
    assert "**reproduced** (stale) |" in index_page({"toy": RESULTS}, {"toy": "abd"})
    assert "Stale" in recipe_page(RESULTS, stale=True)
    assert "Stale" not in recipe_page(RESULTS, stale=False)


def test_recipes_that_never_ran_say_so():
    assert "| `toy` | | not run yet |" in index_page({}, {"toy": "abc"})


def test_an_effect_is_told_with_size_interval_seeds_and_claim():
    assert effect_sentence(EFFECT) == (
        "truth of `new` minus `old`: +0.10 [+0.02, +0.18] (3 paired seeds; claimed higher, 0.05 matters): **reproduced**."
    )
    assert "truth of new minus old: +0.10" in summary(RESULTS)
    assert summary(RESULTS).endswith("verdict: reproduced\n")


def test_a_changed_budget_is_said_to_be_no_verdict_on_the_claim():
    told = "not the recipe's own budget (updates = 5, 3 paired seeds)"
    assert told in summary({**RESULTS, "own_budget": False})
    assert told not in summary(RESULTS)


def test_a_page_shows_every_number_of_every_seed_and_cells_stay_cells():
    page = recipe_page(RESULTS, stale=False)
    assert "| `new` | 0.60 [0.55, 0.65] | 0.58 | 0.6 | 0.62 |" in page
    row = next(line for line in index_page({"toy": RESULTS}, {"toy": "abc"}).splitlines() if line.startswith("| [toy]"))
    assert len(re.split(r"(?<!\\)\|", row)) == 9
    assert "    payoff reproduce toy" in page


def test_the_plot_is_one_file_that_needs_nothing_else():
    root = ElementTree.fromstring(plot(RESULTS))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.findall(r"(?:href|src|url)\s*[=(]", plot(RESULTS))
    labels = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"old", "new", "new − old", "+0.10 [+0.02, +0.18]"} <= set(labels)
    seeds = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("class") == "seedtick"]
    assert len(seeds) == 3 + 3 + 3  # of two arms and of their difference


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_ledger(tmp_path / "nowhere")
