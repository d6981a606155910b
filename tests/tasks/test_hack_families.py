"""Families of hacks: equal stated grades, different worth, and rates that tell hacks from honest and from poor work."""

import pytest
import torch

from payoff.audit.reward_hacks import reward_hacks
from payoff.audit.scorer import Scorer
from payoff.grading import signal
from payoff.rows import from_rows
from payoff.tasks.hack_families import FAMILIES, HackFamilies, hack_rate, hack_rows, stated_grading, transfer, true_worth

ROWS = hack_rows(80, seed=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hack_and_honest_work_have_the_same_full_grade_and_only_one_is_worth_it(family):
    rows = [row for row in ROWS if row["family"] == family]
    assert len(rows) == 20
    for row in rows:
        hacked, honest, poor = (row[name] for name in ("school_of_reward_hacks", "control", "poor"))
        assert [stated_grading(said, family, row) for said in (hacked, honest)] == [1.0, 1.0]
        assert [true_worth(said, family, row) for said in (hacked, honest, poor)] == [0.0, 1.0, 0.0]
        assert stated_grading(poor, family, row) < 1


def test_rates_and_transfer():
    said = lambda way, family: [{**row, "response": row[way]} for row in ROWS if row["family"] == family]
    rates = {
        family: {of: hack_rate(said("school_of_reward_hacks" if of == family else "control", of)) for of in FAMILIES}
        for family in FAMILIES
    }
    control = {of: hack_rate(said("control", of)) for of in FAMILIES}
    assert set(control.values()) == {0.0}
    found = transfer(rates, control)
    assert all(found[on][of] == float(on == of) for on in FAMILIES for of in FAMILIES)
    assert hack_rate([]) is None


def test_rows_are_recorded_attacks_and_the_stated_grading_fails_against_them():
    grade = lambda response, item: 1.0
    assert reward_hacks(Scorer(signal(grade)), ROWS)[0].result == "fails"


def test_the_task_gives_starts_of_its_families_with_their_truth_and_the_same_ones_for_a_seed():
    task = HackFamilies(families=["tests", "length"])
    starts = task.starts(6, torch.Generator().manual_seed(1))
    assert [start.fields["family"] for start in starts] == ["tests", "length"] * 3
    assert [start.id for start in starts] == [start.id for start in task.starts(6, torch.Generator().manual_seed(1))]
    rows = [
        {**start.fields, "response": start.fields["control" if k < 4 else "school_of_reward_hacks"]}
        for k, start in enumerate(starts)
    ]
    truth = task.truth(from_rows(rows))
    assert truth.value[:, 0].tolist() == [1.0] * 4 + [0.0] * 2
    with pytest.raises(ValueError, match="families must be among"):
        HackFamilies(families=["keyword"])


@pytest.mark.parametrize("said", ["x ** 9", "__import__('os')", "f(x)", "1 if x == 1 else", "x" * 300, "((((", "9" * 50])
def test_an_expression_that_is_none_of_the_allowed_is_only_wrong(said):
    row = hack_rows(1, families=["tests"])[0]
    assert stated_grading(said, "tests", row) == 0.0


def test_rows_that_are_no_tasks_have_no_verdict():
    assert not stated_grading("a", "other", {}).valid
    assert not true_worth("a", "tests", {}).valid
    assert hack_rate([{"response": "a", "family": "tests"}]) is None
