"""Noise rates without gold: exact rates of three graders from exact shares, and what an audit makes of members and repeats."""

import itertools

import pytest
import torch

from payoff.audit.case import Case
from payoff.audit.checks import CHECKS
from payoff.audit.noise_without_gold import noise_from_three_graders, rates_from_three_graders, wavering
from payoff.audit.scorer import Scorer
from payoff.grading import signal

F64 = torch.float64
RIGHT, RATES = 0.25, ((0.125, 0.25), (0.0625, 0.375), (0.25, 0.125))  # P(right), and (rho0, rho1) of each grader


def chance(said):
    """The exact probability that the three say this, erring independently given the truth."""
    total = 0.0
    for right, weight in ((True, RIGHT), (False, 1 - RIGHT)):
        for verdict, (low, high) in zip(said, RATES, strict=True):
            says = 1 - high if right else low
            weight *= says if verdict else 1 - says
        total += weight
    return total


def by_name(found):
    return {m.name: m for m in found}


def test_three_graders_give_back_all_seven_unknowns_from_exact_shares():
    share = lambda *who: sum(chance(said) for said in itertools.product((0, 1), repeat=3) if all(said[k] for k in who))
    found = rates_from_three_graders([share(0), share(1), share(2), share(0, 1), share(0, 2), share(1, 2), share(0, 1, 2)])
    assert found.right == pytest.approx((RIGHT,), abs=1e-9)
    assert found.false_positive == pytest.approx([low for low, _ in RATES], abs=1e-9)
    assert found.false_negative == pytest.approx([high for _, high in RATES], abs=1e-9)
    assert rates_from_three_graders([0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]) is None  # independent: nothing to go by


def test_the_measure_has_the_rates_of_the_first_and_reads_no_row_without_a_verdict():
    cells = list(itertools.product((0.0, 1.0), repeat=3))
    counts = [round(2**13 * chance(said)) for said in cells]
    said = torch.tensor([cell for cell, count in zip(cells, counts, strict=True) for _ in range(count)], dtype=F64)
    group = torch.arange(len(said))
    found = by_name(noise_from_three_graders(said, torch.ones(len(said), dtype=torch.bool), group))
    for name, rate in (("false-positive-rate", 0.125), ("false-negative-rate", 0.25), ("verdict-slope", 0.625)):
        estimate = found[f"{name}-three-graders"].estimate
        assert estimate.value == pytest.approx(rate, abs=2e-3)
        assert 0 < estimate.high - estimate.low < 0.2
    assert "has the mean of the truth" in found["verdict-slope-three-graders"].note
    assert found["verdict-slope-three-graders"].remedies == ("noisy-rlvr-correction",)
    more = torch.cat([said, torch.full((9, 3), float("nan"), dtype=F64)])
    some = by_name(noise_from_three_graders(more, torch.arange(len(more)) < len(said), torch.arange(len(more))))
    assert some["false-positive-rate-three-graders"].estimate == found["false-positive-rate-three-graders"].estimate


def test_what_never_wavers_and_what_is_no_verdict_gets_no_rate():
    steady = wavering(torch.tensor([[1.0] * 4, [0.0] * 4] * 9, dtype=F64), torch.ones(18, 4, dtype=torch.bool), torch.arange(18))
    assert all(m.estimate is None and "never wavers" in m.note for m in steady)
    graded = wavering(torch.rand(9, 4).double(), torch.ones(9, 4, dtype=torch.bool), torch.arange(9))
    assert all("no verdict of right or wrong" in m.note for m in graded)


def test_an_audit_without_gold_takes_the_rates_from_its_members_and_from_asking_again():
    g = torch.Generator().manual_seed(0)
    right = (torch.rand(1200, generator=g) < 0.5).tolist()
    rows = [{"prompt": f"{k // 4}?", "response": f"{k}", "source": ("web", "book")[k % 8 < 4]} for k in range(1200)]
    drawn = [torch.rand(1200, generator=g).tolist() for _ in range(3)]

    def grader(which):
        low, high = RATES[which]

        def grade(response):
            k = int(response)
            return float(drawn[which][k] < (1 - high if right[k] else low))

        return Scorer(signal(grade))

    case = Case(grader(0), rows, members=[grader(1), grader(2)])
    found = by_name(CHECKS["noise"].run(case))
    assert found["false-positive-rate"].estimate is None
    three = found["false-positive-rate-three-graders"].estimate
    assert three.value == pytest.approx(0.125, abs=three.high - three.low)
    alike = by_name(CHECKS["noise"].run(Case(grader(0), [row | {"source": "one"} for row in rows], members=[grader(1)])))
    assert "one population" in alike["verdict-slope-two-graders"].note
    assert not any("graders" in m.name for m in CHECKS["noise"].run(Case(grader(0), rows)))
    asked = torch.Generator().manual_seed(1)

    def wavers(response):
        return float((torch.rand((), generator=asked) < 0.2) != right[int(response)])

    again = by_name(CHECKS["consistency"].run(Case(Scorer(signal(wavers)), rows[:800])))
    for name in ("false-positive-rate-repeats", "false-negative-rate-repeats"):
        assert again[name].estimate.value == pytest.approx(0.2, abs=again[name].estimate.high - again[name].estimate.low)
        assert again[name].estimate.high - again[name].estimate.low < 0.2
