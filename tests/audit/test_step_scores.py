"""Step scores as one, a judge's comparisons as scores, chains of proxies, and rows that teach what an audit found."""

import math
import random

import pytest
import torch

from payoff.audit.discrimination import discrimination
from payoff.audit.negatives import edited_steps, exchanged_negatives, opener_negatives
from payoff.audit.planted import evidence
from payoff.audit.proxy_chain import hacking_gap, links
from payoff.audit.scorer import Scorer
from payoff.audit.step_scores import STEPS_TO_ONE, judged_one_against_many, one_score, steps_against_outcome
from payoff.grading import signal


def test_one_step_is_its_own_score_and_means_stand_in_their_order():
    assert all(one_score([0.3], how) == pytest.approx(0.3) for how in STEPS_TO_ONE if how != "mean-odds")
    assert one_score([0.75], "mean-odds") == pytest.approx(3.0)
    p = [0.9, 0.5, 0.2]
    by = {how: one_score(p, how) for how in STEPS_TO_ONE}
    assert by["product"] <= by["min"] <= by["geometric-mean"] <= by["mean"] <= by["max"]
    assert by["mean-logit"] == pytest.approx(1 / (1 + math.exp(-(math.log(9) + 0 - math.log(4)) / 3)))
    assert all(math.isfinite(one_score([0.0, 1.0], how)) for how in STEPS_TO_ONE)
    for bad in (lambda: one_score([], "min"), lambda: one_score([0.5], "median"), lambda: one_score([0.5], "min", last=0)):
        with pytest.raises(ValueError, match="one_score"):
            bad()


@pytest.mark.parametrize(("wins", "above_all", "rank"), [((1, 1, 1), True, 1), ((1, 0, 1), False, 2), ((0, 0, 0), False, 4)])
def test_a_judge_that_loses_one_comparison_is_not_above_all_and_its_rank_counts_its_losses(wins, above_all, rank):
    own, rivals = judged_one_against_many([bool(won) for won in wins])
    scores, gold = torch.tensor([own, *rivals]).double(), torch.tensor([1.0, 0, 0, 0]).double()
    found = discrimination(scores, torch.ones(4).bool(), gold, torch.zeros(4).long())
    found = {m.name: m.estimate.value for m in found if m.estimate}
    assert (found["one-against-many"], found["mean-reciprocal-rank"]) == (float(above_all), 1 / rank)


def test_where_errors_lie_in_the_middle_steps_select_better_and_where_they_lie_at_the_end_the_outcome_does():
    rng = random.Random(0)
    group = torch.arange(40).repeat_interleave(4)
    middle = group < 20
    right = torch.tensor([k % 4 == 0 for k in range(160)])
    blind = torch.tensor([rng.random() for _ in range(160)]).double()
    outcome = torch.where(middle, blind, right.double())
    steps = torch.where(middle, right.double(), blind)
    found = steps_against_outcome(outcome, steps, right, group)
    assert (float(found.by_steps[:20].mean()), float(found.by_outcome[20:].mean())) == (1.0, 1.0)
    assert bool(found.keep[:20].float().mean() > 0.5)
    assert not bool(found.keep[20:].any())
    even = steps_against_outcome(torch.ones(160).double(), torch.ones(160).double(), right, group)
    assert even.by_steps.tolist() == [0.25] * 40  # ties are shared: the base accuracy


def test_a_chain_breaks_where_its_numbers_stop_following():
    accuracy, truth = [0.6, 0.7, 0.8, 0.9, 0.95], [5.0, 1.0, 4.0, 2.0, 3.0]
    found = links({"accuracy": accuracy, "proxy": [2 * x for x in accuracy], "truth": truth})
    assert found["accuracy", "proxy"].value == 1.0
    assert found["proxy", "truth"].value == found["accuracy", "truth"].value == pytest.approx(-0.3)  # 1 - 6 * 26 / (5 * 24)
    with pytest.raises(ValueError, match="two columns"):
        links({"accuracy": accuracy})


def test_the_hacking_gap_is_nothing_for_an_affine_copy_and_begins_at_nothing():
    x = torch.tensor([1.0, 2.0, 4.0, 3.0]).double()
    assert hacking_gap(x, 5 * x - 3).abs().max() < 1e-12
    assert float(hacking_gap(x, -x)[0]) == 0.0
    assert torch.equal(hacking_gap(x, torch.ones(4).double()), (x - 1) / x.std(correction=0))
    with pytest.raises(ValueError, match="hacking_gap"):
        hacking_gap(x, x, first=9)


def test_openers_of_right_answers_become_wrong_ones_and_short_right_ones_do_not():
    rows = [*evidence(5, 4), {"prompt": "2+2?", "response": "The answer is 4. It is even.", "reference": "4", "gold": 1.0}]
    before = [dict(row) for row in rows]
    made = opener_negatives(rows, 100)
    assert rows == before
    assert made
    assert {row["gold"] for row in made} == {0.0}
    assert all(row["prompt"] != "2+2?" for row in made)
    assert len(opener_negatives(rows, 3)) == 3


def test_answers_under_another_instruction_are_wrong_there():
    rows = [{"prompt": f"add 1 and {k}", "response": str(k + 1), "reference": str(k + 1), "ok": 1.0} for k in range(5)]
    exact = Scorer(signal(lambda response, reference: float(response == reference)))
    made = exchanged_negatives(exact, rows, gold="ok", label="ok")
    assert len(made) == 5
    assert all(exact([row]).value.tolist() == [0.0] == [row["ok"]] for row in made)


def test_an_edit_changes_the_step_it_names_and_no_other_and_what_still_holds_is_no_negative():
    rows = [{"prompt": str(k), "steps": [f"a{k}. ", "b. ", f"c{k}. ", "d."], "gold": 1.0} for k in range(6)]
    rows = [{**row, "response": "".join(row["steps"])} for row in rows] + [{"prompt": "one", "steps": ["x"], "response": "x"}]
    made = edited_steps(rows)
    assert made == edited_steps(rows)
    assert {row["edit"] for row in made} == {"left out", "said twice", "exchanged", "from elsewhere"}
    for row in made:
        old = next(other["steps"] for other in rows if other["prompt"] == row["prompt"])
        at, new = row["edited"], row["steps"]
        assert new[:at] == old[:at]
        assert new[at:] != old[at:]
        after = {"left out": (new[at:], old[at + 1 :]), "said twice": (new[at + 1 :], old[at:])}
        after |= {"exchanged": (new[at + 2 :], old[at + 2 :]), "from elsewhere": (new[at + 1 :], old[at + 1 :])}
        assert after[row["edit"]][0] == after[row["edit"]][1]
        assert row["response"] == "".join(new)
        assert row["gold"] == 0.0
    truth = Scorer(signal(lambda response: float("b." in response)))
    assert {row["edit"] for row in edited_steps(rows, truth=truth)} <= {"left out", "from elsewhere"}
    assert all("b." not in row["response"] for row in edited_steps(rows, truth=truth))
