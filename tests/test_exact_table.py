"""The table of docs/exact-lab.md: it is what the command makes, has every advantage, and agrees with what is known by hand."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from payoff.catalogue import index
from payoff.exact_table import MARK, REWARDS, Estimator, estimators, figures, reference_policy
from payoff.made_pages import END, rewritten

PAGE = Path(__file__).parents[1] / "docs" / "exact-lab.md"


def rows_of_page() -> dict[str, list[str]]:
    """The first table's rows by estimator."""
    table = PAGE.read_text(encoding="utf-8").split("### Reward")[1]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


def reward(title: str) -> torch.Tensor:
    return torch.tensor(sum(REWARDS[title]["reward"], ()), dtype=torch.float64)


def by_name(name: str) -> Estimator:
    return next(estimator for estimator in estimators() if estimator.name == name)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_page_holds_what_the_command_makes():
    page = PAGE.read_text(encoding="utf-8")
    made = subprocess.run([sys.executable, "-m", "payoff.exact_table"], capture_output=True, text=True, check=True).stdout
    assert rewritten(page, made.rstrip("\n"), MARK) == page, "run: python -m payoff.exact_table docs/exact-lab.md"


def test_every_registered_advantage_has_a_row_or_a_reason():
    page = PAGE.read_text(encoding="utf-8")
    for record in index().values():
        if record.kind == "advantage":
            assert re.search(rf"^(\| |- ){re.escape(record.name)}[ ,:]", page, flags=re.MULTILINE), (
                f"{record.name} is not in the table; run: python -m payoff.exact_table docs/exact-lab.md"
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rloo", "grpo, trl", "grpo, nemo-rl", "reinforce-plus-plus, verl", "rloo, token-mean"])
def test_rows_of_the_page_are_what_is_computed(name):
    found = [figures(by_name(name), reward("right or wrong"), size) for size in (2, 4)]
    assert rows_of_page()[name] == [f"{x if abs(x) >= 5e-4 else 0:.3f}" for row in found for x in row]


def test_rloo_has_no_bias_and_the_mean_baseline_a_factor():
    for title in REWARDS:
        assert figures(by_name("rloo"), reward(title), 2).bias < 1e-9
        mean = figures(by_name("mean-baseline"), reward(title), 2)
        assert (mean.bias, mean.cosine) == (pytest.approx(0.5, abs=1e-9), pytest.approx(1, abs=1e-9))
        # a factor changes the variance by its square and the noise not at all
        rloo = figures(by_name("rloo"), reward(title), 2)
        assert mean.variance == pytest.approx(rloo.variance / 4)
        assert mean.noise == pytest.approx(rloo.noise)


def test_of_two_rollouts_grpo_with_divisor_n_is_unbiased_for_right_or_wrong_and_with_n_minus_one_short_by_root_two():
    paper, trl = (figures(by_name(f"grpo, {name}"), reward("right or wrong"), 2) for name in ("paper", "openrlhf"))
    assert paper.bias < 1e-9
    assert trl.bias == pytest.approx(1 - math.sqrt(0.5), abs=1e-8)


def test_the_tree_has_lengths_that_vary_and_starts_that_differ_in_difficulty():
    policy = reference_policy()
    assert policy.tree.length.tolist() == [3, 3, 2, 1]
    success = [float(policy.probabilities(s).detach() @ reward("right or wrong").view(2, 4)[s]) for s in (0, 1)]
    assert success[0] < 0.1 < 0.5 < success[1]


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="lacks the mark"):
        rewritten("nothing here", "table", MARK)
    assert rewritten(f"{MARK}{END}", "table", MARK).count("table") >= 1
