"""docs/estimators.md: every advantage has a row, its numbers are those of the exact lab, and its run file gives what it says."""

import re
from pathlib import Path

import yaml

from payoff.catalogue import index

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "estimators.md").read_text(encoding="utf-8")


def rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_advantage_has_one_row():
    listed = re.findall(r"^\| `([a-z0-9-]+)` \|.*\|.*\|.*\|.*\|.*\|.*\|$", PAGE, flags=re.MULTILINE)
    assert sorted(listed) == sorted(name for kind, name in index() if kind == "advantage")


def test_cosine_and_noise_are_those_of_the_exact_lab():
    lab = rows((DOCS / "exact-lab.md").read_text(encoding="utf-8").split("### Reward: graded")[1].split("<!--")[0])
    here = rows(PAGE.split("## All of them")[1].split("## One name")[0])
    compared = 0
    for kind, name in index():
        known = [row for label, row in lab.items() if label.split(",")[0] == name]
        if kind == "advantage" and known:
            assert here[name][2:4] == [known[0][5], known[0][7]], name
            compared += 1
    assert compared >= 30


def test_the_page_names_the_conventions_that_there_are():
    from payoff.advantages.group import CONVENTIONS

    shown = re.findall(r"^(\S+) +-?\d\.\d{4} -?\d\.\d{3} \d\.\d$", PAGE, flags=re.MULTILINE)
    assert shown == list(CONVENTIONS)


def test_its_run_file_is_the_decoupled_normalisation_that_parity_is_tested_of():
    terms = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)[1])["terms"]["policy"]
    assert all(path == ["total", {"name": "grpo", "convention": "verl"}] for path in terms["paths"].values())
    assert terms["then"] == ["whiten"]
