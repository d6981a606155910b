"""Calibration: the debiased error is unbiased by enumeration, and planted miscalibration is found."""

import itertools
import math

import pytest
import torch

from payoff.audit.calibration import MEASURES, calibration, reliability, squared_calibration_error

F64 = torch.float64


def measured(p, gold, group=None, **options):
    group = torch.arange(len(p)) if group is None else group
    return {m.name: m for m in calibration(p, torch.ones(len(p), dtype=torch.bool), gold, group, **options)}


@pytest.mark.parametrize("truth", [0.2, 0.5, 0.9])
def test_the_squared_error_is_unbiased_over_all_outcomes_of_four_answers(truth):
    p, alone = torch.full((4,), 0.3, dtype=F64), torch.arange(4)
    expected = plain = 0.0
    for y in itertools.product((0.0, 1.0), repeat=4):
        chance = math.prod(truth if v else 1 - truth for v in y)
        gold = torch.tensor(y, dtype=F64)
        expected += chance * squared_calibration_error(p, gold, torch.zeros(4, dtype=torch.int64), alone)
        plain += chance * float((p - gold).mean()) ** 2
    assert expected == pytest.approx((0.3 - truth) ** 2, abs=1e-12)
    assert plain > (0.3 - truth) ** 2 + 0.02


def test_two_bins_are_weighed_by_their_rows_and_each_is_unbiased():
    p, bins = torch.tensor([0.1, 0.1, 0.8, 0.8, 0.8], dtype=F64), torch.tensor([0, 0, 1, 1, 1])
    truth, expected = (0.4, 0.4, 0.6, 0.6, 0.6), 0.0
    for y in itertools.product((0.0, 1.0), repeat=5):
        chance = math.prod(t if v else 1 - t for t, v in zip(truth, y, strict=True))
        expected += chance * squared_calibration_error(p, torch.tensor(y, dtype=F64), bins, torch.arange(5))
    assert expected == pytest.approx(2 / 5 * 0.3**2 + 3 / 5 * 0.2**2, abs=1e-12)


def test_answers_of_one_prompt_that_are_right_together_are_not_taken_for_miscalibration():
    # Three prompts, each right in all four answers or in none, with probability one half: p = 0.5 is calibrated.
    p, prompt = torch.full((12,), 0.5, dtype=F64), torch.arange(12) // 4
    expected = alone = 0.0
    for y in itertools.product((0.0, 1.0), repeat=3):
        gold = torch.tensor(y, dtype=F64).repeat_interleave(4)
        expected += squared_calibration_error(p, gold, torch.zeros(12, dtype=torch.int64), prompt) / 8
        alone += squared_calibration_error(p, gold, torch.zeros(12, dtype=torch.int64), torch.arange(12)) / 8
    assert expected == pytest.approx(0, abs=1e-12)
    assert alone > 0.05


def test_a_bin_with_one_prompt_is_left_out_and_none_is_left_to_measure():
    p, gold, bins = torch.tensor([0.5, 0.5, 0.9], dtype=F64), torch.tensor([1.0, 0, 0], dtype=F64), torch.tensor([0, 0, 1])
    # Bin 0: mean 0, its variance (1/4 + 1/4) 2 / (2 - 1) / 4 = 1/4.
    assert squared_calibration_error(p, gold, bins, torch.tensor([0, 1, 2])) == pytest.approx(-0.25)
    assert math.isnan(squared_calibration_error(p, gold, bins, torch.tensor([0, 0, 0])))
    assert measured(p, gold, torch.zeros(3, dtype=torch.int64))["calibration-error"].estimate is None


def data(promise, truth, n=2000, seed=0):
    g = torch.Generator().manual_seed(seed)
    level = torch.randint(5, (n,), generator=g)
    p, q = (torch.tensor(x, dtype=F64)[level] for x in (promise, truth))
    return p, (torch.rand(n, generator=g, dtype=F64) < q).double()


def test_a_calibrated_reward_holds_and_an_overconfident_one_fails():
    levels = [0.1, 0.3, 0.5, 0.7, 0.9]
    good, bad = measured(*data(levels, levels)), measured(*data([0.4, 0.6, 0.8, 0.9, 1.0], levels))
    assert (good["calibration-error"].result, bad["calibration-error"].result) == ("holds", "fails")
    assert good["calibration-error"].estimate.value < 0.05
    # the errors 0.3, 0.3, 0.3, 0.2, 0.1 in five equal parts: root of their mean square
    assert bad["calibration-error"].estimate.value == pytest.approx(math.sqrt(0.064), abs=0.03)
    assert bad["overconfidence"].estimate.low > 0.2
    assert good["overconfidence"].result == "holds"


def test_brier_worked_by_hand_and_of_a_coin():
    found = measured(torch.tensor([0.9, 0.4, 0.5], dtype=F64), torch.tensor([1.0, 1, 0], dtype=F64))
    assert found["brier"].estimate.value == pytest.approx((0.01 + 0.36 + 0.25) / 3)
    assert measured(torch.full((50,), 0.5, dtype=F64), (torch.arange(50) % 2).double())["brier"].estimate.value == 0.25


def test_log_odds_are_read_through_the_sigmoid_and_anything_else_is_refused():
    p, gold = data([0.1, 0.3, 0.5, 0.7, 0.9], [0.1, 0.3, 0.5, 0.7, 0.9], 500)
    plain, odds = measured(p, gold), measured(torch.logit(p), gold, link="sigmoid")
    assert odds["brier"].estimate.value == pytest.approx(plain["brier"].estimate.value)
    for found in (measured(torch.logit(p), gold), measured(p, 3 * gold)):
        assert list(found) == list(MEASURES.asked)
        assert all("no probability" in m.note for m in found.values())


def test_the_reliability_curve_counts_its_rows():
    p, gold = torch.tensor([0.2] * 4 + [0.8] * 6, dtype=F64), torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0, 0, 0], dtype=F64)
    curve = reliability(p, gold, torch.tensor([0] * 4 + [1] * 6))
    assert curve["count"] == [4.0, 6.0]
    assert curve["right"] == pytest.approx([0.25, 0.5])
    assert curve["promised"] == pytest.approx([0.2, 0.8])
    assert all(low < right < high for low, right, high in zip(curve["low"], curve["right"], curve["high"], strict=True))


def test_invalid_rows_leave_every_number_as_it_was():
    p, gold = data([0.1, 0.3, 0.5, 0.7, 0.9], [0.3, 0.3, 0.5, 0.7, 0.7], 300)
    clean = measured(p, gold)
    valid = torch.ones(302, dtype=torch.bool)
    valid[300] = False
    more = torch.cat([p, torch.tensor([7.0, math.nan], dtype=F64)]), torch.cat([gold, torch.ones(2, dtype=F64)])
    for m in calibration(more[0], valid, more[1], torch.arange(302)):
        assert m.estimate == pytest.approx(clean[m.name].estimate)
        assert "2 of 302" in m.note
    assert all(m.estimate is None for m in calibration(p, valid[:300], None, torch.arange(300)))


def test_the_worst_examples_of_an_overconfident_reward_promised_most():
    rows = [{"prompt": str(i), "response": str(i)} for i in range(4)]
    found = measured(torch.tensor([0.9, 0.99, 0.1, 0.8], dtype=F64), torch.tensor([0.0, 0, 0, 1], dtype=F64), rows=rows)
    assert [e["row"] for e in found["overconfidence"].examples] == [1, 0, 2]
