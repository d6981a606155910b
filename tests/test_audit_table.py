"""docs/audit.md: its marks are whole, its table of measures is what the command makes, and the prediction's numbers are checked."""

import re
from pathlib import Path

import pytest
import torch

from payoff.audit.planted import CLEAN
from payoff.audit_prediction import CLEANEST, rows_of, spearman, table_of, task_of
from payoff.audit_rewards import REAL, Found, rows_for
from payoff.audit_table import PARTS, main, mark, measures
from payoff.made_pages import END, rewritten

PAGE = (Path(__file__).parents[1] / "docs" / "audit.md").read_text(encoding="utf-8")


MADE = [part for part in PARTS if mark(part) in PAGE]  # the others are printed by their command, and not on the page yet


@pytest.mark.parametrize("part", MADE)
def test_every_part_has_its_marks_around_a_table(part):
    assert {"measures", "prediction"} <= {*MADE}
    inside = PAGE.partition(mark(part))[2].partition(END)[0]
    assert inside.count("\n|") >= 3
    assert "<!--" not in inside
    assert rewritten(PAGE, inside.strip(), mark(part)) == PAGE


def test_the_table_of_measures_is_what_the_command_makes():
    inside = PAGE.partition(mark("measures"))[2].partition(END)[0].strip()
    # check, measure and question; a bound is "told only" where a busy machine leaves a measure of time undecided
    named = lambda table: [line.split(" | ")[:3] for line in table.splitlines()]
    assert named(measures(lambda _: None)) == named(inside), "run: python -m payoff.audit_table measures docs/audit.md"


def test_an_unknown_part_is_refused():
    with pytest.raises(SystemExit, match="PART is one of measures"):
        main(["meassures"])


def test_rank_correlations_and_the_truth_of_the_fragments_by_hand():
    assert spearman([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0], draws=40)[0] == pytest.approx(0.6)  # 1 - 6 * 4 / (4 * 15)
    task = task_of()
    truth = table_of(CLEAN[CLEANEST], task.responses[:64])
    assert truth[:, 0].tolist() == [1.0] * 20  # aaa: the right answer, three times
    assert rows_of(0, ["ab"])[0]["reference"] in rows_of(0, ["a"])[0]["response"]
    assert torch.equal(truth, truth.bool().double())


def test_rows_are_written_as_each_reward_reads_them():
    for real in REAL:
        rows = rows_for(real, 1)
        assert {row["gold"] for row in rows} == {0.0, 1.0}
        assert all(name in row for row in rows for name in real.fields)
        if "think" in real.name:
            assert all(re.fullmatch(r"<think>.*</think>\n.*", row["response"], re.DOTALL) for row in rows)
    assert Found("fails", ["x"], 0, 1).why == ""
