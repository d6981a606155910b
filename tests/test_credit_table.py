"""The tables of docs/credit.md: they are what the command makes, have every credit, and agree with what is known by hand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from payoff.catalogue import index
from payoff.credit_entries import NO_ROW, REWARDS, entries
from payoff.credit_learned import labels, rollouts
from payoff.credit_places import TEACHER, reference_policy, solutions, tree_rewards
from payoff.credit_table import MARK, chain_cells, chain_quality, tree_cells, tree_quality
from payoff.made_pages import END, rewritten

METHODS = """
    pure pr-clip-delta g-ra prof ppr-renorm portool slate flow-grpo-agentflow lare revibranch return-decomposition calm oreal
    sparse-po direct-advantage-po prime oprl rto t-reg rlpr likelihood-rewards igpo rlfr vppo process-reward-model math-shepherd
    completion-values rest-mcts pav hrm-hnc tp-grpo capo spa-rl fine-grained-rlhf fgaif archer b-coder prm-gflownet reward-ranker
"""  # what pays steps, or says which of them a payment is for
PAGE = Path(__file__).parents[1] / "docs" / "credit.md"


def by_name(name):
    return next(entry for entry in entries() if entry.name == name)


def rows_of_page(heading):
    table = PAGE.read_text(encoding="utf-8").split(f"### {heading}")[1].split(END)[0].split("###")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_page_holds_what_the_command_makes():
    page = PAGE.read_text(encoding="utf-8")
    made = subprocess.run([sys.executable, "-m", "payoff.credit_table"], capture_output=True, text=True, check=True).stdout
    assert rewritten(page, made.rstrip("\n"), MARK) == page, "run: python -m payoff.credit_table docs/credit.md"


def test_every_method_of_credit_has_a_row_or_a_reason():
    page = PAGE.read_text(encoding="utf-8")
    for name in [*METHODS.split(), *(record.name for record in index().values() if record.kind == "credit")]:
        assert re.search(rf"^(\| |\| total, rloo, |- `){re.escape(name)}[ ,:`]", page, flags=re.MULTILINE), (
            f"{name} is not on the page; run: python -m payoff.credit_table docs/credit.md"
        )


def test_what_has_no_row_is_registered():
    assert set(NO_ROW) | set(METHODS.split()) <= {record.name for record in index().values()}


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("total", "outcome"),
        ("t-reg, immediate", "outcome"),
        ("g-ra, return-to-go", "gameable steps"),
        ("capo", "gameable steps"),
        ("pure, return-to-go", "right steps"),
    ],
)
def test_rows_of_the_tree_on_the_page_are_what_is_computed(name, title):
    assert rows_of_page(f"Paid: {REWARDS[title]}")[name][:-1] == tree_cells(tree_quality(by_name(name), title))


@pytest.mark.parametrize(
    "name", ["total", "immediate", "pr-clip-delta, return-to-go", "pav, eight continuations of the policy, immediate"]
)
def test_rows_of_the_chain_on_the_page_are_what_is_computed(name):
    cells = [cell for title in REWARDS for cell in chain_cells(by_name(name), title)]
    assert rows_of_page("Solutions of a scripted teacher")[name] == cells


def test_a_perfect_critic_one_step_ahead_is_the_advantage_at_both_places():
    entry = by_name("lambda-return, trace 0, subtract-values")
    for found in (tree_quality(entry, "outcome", group_size=1), chain_quality(entry, "outcome")):
        assert found.cosine.value == pytest.approx(1, abs=1e-9)
        assert found.correlation.value == pytest.approx(1, abs=1e-2 if found.climb is None else 1e-9)


def test_the_second_and_fourth_letters_of_the_tree_change_nothing():
    # the actions that matter: all first ones, and third ones after a right first letter
    policy = reference_policy()
    chance_of_b = float(policy.logits[0, 0].detach().softmax(0)[1])
    assert tree_quality(by_name("total"), "outcome", group_size=1).even == pytest.approx((1 + chance_of_b) / 4)


def test_the_graders_pay_what_the_page_says():
    paid = {name: dict(zip(["".join(x) for x in _words()], table.tolist(), strict=True)) for name, table in tree_rewards().items()}
    assert paid["right steps"]["babb"] == [0.5, 0, 0.5, 0]
    assert paid["right steps"]["abba"] == [0, 0, 0, 0]
    assert paid["gameable steps"]["aaba"] == [0.5, 0.5, 0, 0.5]
    assert paid["outcome"]["bbba"] == [0, 0, 0, 1]


def test_the_teachers_solutions_are_as_said():
    found = solutions()
    assert len(found.traj) == 1200
    assert len(found.traj.group.unique()) == 150
    assert TEACHER.skipped_term == 0
    right = found.rewards["outcome"].value.sum(1)
    assert torch.equal(found.value[torch.arange(1200), found.traj.length].round(), right)


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="lacks the mark"):
        rewritten("nothing here", "table", MARK)
    assert rewritten(f"{MARK}{END}", "table", MARK).count("table") >= 1


def _words():
    letters = "ab"
    return [(a, b, c, d) for a in letters for b in letters for c in letters for d in letters]


@pytest.mark.exhaustive
def test_a_critic_of_many_continuations_tells_where_it_happened_and_shares_of_outcomes_alone_do_not():
    critic, shares = (  # both have seen the same 64 rollouts
        tree_quality(by_name(name), "outcome", group_size=1)
        for name in ("direct-advantage-po beside the outcome, immediate", "spa-rl, return-to-go")
    )
    assert critic.share.value > 0.95
    assert shares.share.value < 0.8


def test_labels_that_models_learn_from_are_of_the_needed_letters():
    right, known = labels()
    assert known.all()
    for row, item in zip(right.tolist(), rollouts().items, strict=True):
        assert row == [float(item["response"][0] == "b"), 1.0, float(item["response"][2] == "b"), 1.0]
