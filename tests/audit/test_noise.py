"""Noise of verdicts: planted rates come back exactly from exact moments, and what is not identified is said not to be."""

import itertools
import math

import pytest
import torch

from payoff.audit.noise import (
    MEASURES,
    noise,
    noise_from_repeats,
    noise_from_two_graders,
    rates_from_repeats,
    rates_from_two_populations,
)

F64 = torch.float64


def yes(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def flipped(right: torch.Tensor, rho0: float, rho1: float, g: torch.Generator) -> torch.Tensor:
    chance = torch.where(right, 1 - rho1, rho0)
    return (torch.rand(right.shape, generator=g, dtype=F64) < chance).double()


def by_name(found):
    return {m.name: m for m in found}


def test_rates_against_gold_are_counted_each_way():
    said, gold = torch.tensor([1.0, 1, 0, 0, 0, 1], dtype=F64), torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=F64)
    found = by_name(noise(said, yes(6), gold, torch.arange(6)))
    assert found["false-positive-rate"].estimate.value == 0.5  # 2 of 4 wrong answers
    assert found["false-negative-rate"].estimate.value == 0.5  # 1 of 2 right ones
    assert found["verdict-slope"].estimate.value == 0
    assert "no correction can help" in found["verdict-slope"].note


def test_planted_noise_fails_each_measure_and_clean_verdicts_hold():
    g = torch.Generator().manual_seed(0)
    right = torch.rand(2000, generator=g) < 0.4
    group = torch.arange(2000) // 4
    bad = by_name(noise(flipped(right, 0.2, 0.3, g), yes(2000), right.double(), group))
    good = by_name(noise(right.double(), yes(2000), right.double(), group))
    for name in MEASURES.asked:
        assert (bad[name].result, good[name].result) == ("fails", "holds")
    assert bad["false-positive-rate"].estimate.low < 0.2 < bad["false-positive-rate"].estimate.high
    assert bad["verdict-slope"].estimate.low < 0.5 < bad["verdict-slope"].estimate.high


def test_a_reward_of_many_values_is_no_verdict_until_it_is_said_where_it_says_right():
    scores, gold = torch.tensor([-3.0, 0.2, 4.0, 1.0], dtype=F64), torch.tensor([0.0, 0, 1, 1], dtype=F64)
    for found in (noise(scores, yes(4), gold, torch.arange(4)), noise(gold, yes(4), scores, torch.arange(4))):
        assert [m.name for m in found] == list(MEASURES.asked)
        assert all("4 values" in m.note for m in found)
    assert by_name(noise(scores, yes(4), gold, torch.arange(4), said_right=0.5))["verdict-slope"].estimate.value == 1
    signs = by_name(noise(2 * gold - 1, yes(4), gold, torch.arange(4)))
    assert signs["verdict-slope"].estimate.value == 1


def test_a_lenient_source_is_named():
    g = torch.Generator().manual_seed(1)
    right, source = torch.rand(3000, generator=g) < 0.5, torch.arange(3000) % 3
    said = flipped(right, 0.0, 0.0, g)
    said[(source == 2) & (torch.rand(3000, generator=g) < 0.5)] = 1.0
    found = by_name(noise(said, yes(3000), right.double(), torch.arange(3000), source=source, names=("web", "book", "exam")))
    worst = found["false-positive-rate-by-source"]
    assert worst.note.startswith("Highest in exam")
    assert worst.result == "fails"
    assert worst.series["false_positive"][:2] == [0.0, 0.0]


def exact_counts(right: float, rho0: float, rho1: float, repeats: int, total: int) -> torch.Tensor:
    """Counts in proportion to their exact probabilities."""
    counts = []
    for k in range(repeats + 1):
        chance = sum(
            weight * math.comb(repeats, k) * q**k * (1 - q) ** (repeats - k) for weight, q in ((right, 1 - rho1), (1 - right, rho0))
        )
        counts += [float(k)] * round(total * chance)
    return torch.tensor(counts, dtype=F64)


@pytest.mark.parametrize("repeats", [3, 5])
def test_three_or_more_repeats_give_back_the_planted_rates(repeats):
    rates = rates_from_repeats(exact_counts(0.4, 0.1, 0.2, repeats, 200_000), repeats)
    assert (rates.right[0], rates.false_positive[0], rates.false_negative[0]) == pytest.approx((0.4, 0.1, 0.2), abs=1e-3)


def test_repeats_that_do_not_split_or_do_not_waver():
    assert rates_from_repeats(torch.full((50,), 3.0, dtype=F64), 3) is None
    # All verdicts a fair coin: one kind of answer only, in exact proportions 1 3 3 1.
    assert rates_from_repeats(torch.tensor([0.0, 1, 1, 1, 2, 2, 2, 3], dtype=F64), 3) is None
    with pytest.raises(ValueError, match="repeats must be >= 3"):
        rates_from_repeats(torch.zeros(4, dtype=F64), 2)


def test_the_measure_of_repeats_holds_the_planted_rates_and_never_reads_invalid_ones():
    g = torch.Generator().manual_seed(2)
    right = torch.rand(1500, generator=g) < 0.5
    verdicts = torch.stack([flipped(right, 0.1, 0.25, g) for _ in range(4)], 1)
    valid = yes(1500, 4)
    found = by_name(noise_from_repeats(verdicts, valid, torch.arange(1500) // 3))
    for name, truth in (
        ("false-positive-rate-repeats", 0.1),
        ("false-negative-rate-repeats", 0.25),
        ("verdict-slope-repeats", 0.65),
    ):
        assert found[name].estimate.low < truth < found[name].estimate.high
        assert found[name].estimate.high - found[name].estimate.low < 0.12
    spoiled, gaps = torch.cat([verdicts, verdicts[:9]]), torch.cat([valid, valid[:9]])
    spoiled[1500:, 2], gaps[1500:, 2] = math.nan, False
    again = by_name(noise_from_repeats(spoiled, gaps, torch.arange(1509) // 3))
    assert again["verdict-slope-repeats"].estimate == pytest.approx(found["verdict-slope-repeats"].estimate)
    assert "9 of 1509" in again["verdict-slope-repeats"].note


def test_two_repeats_only_tell_how_often_they_differ():
    verdicts = torch.tensor([[1.0, 0], [1, 1], [0, 0], [0, 1]], dtype=F64)
    found = noise_from_repeats(verdicts, yes(4, 2), torch.arange(4))
    assert all(m.estimate is None and "do not identify" in m.note and "0.500" in m.note for m in found)
    assert all(m.estimate is None for m in noise_from_repeats(verdicts[:, :1], yes(4, 1), torch.arange(4)))


def cells(right: float, a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float, float]:
    says = lambda rates, truth: 1 - rates[1] if truth else rates[0]
    first = second = both = 0.0
    for truth, weight in ((True, right), (False, 1 - right)):
        first += weight * says(a, truth)
        second += weight * says(b, truth)
        both += weight * says(a, truth) * says(b, truth)
    return first, second, both


@pytest.mark.parametrize(
    ("shares", "a", "b"),
    list(itertools.product([(0.3, 0.7), (0.8, 0.1)], [(0.1, 0.2), (0.0, 0.3)], [(0.25, 0.05), (0.4, 0.4)])),
)
def test_two_graders_on_two_populations_give_back_all_six_unknowns(shares, a, b):
    rates = rates_from_two_populations([cells(share, a, b) for share in shares])
    assert rates.right == pytest.approx(shares)
    assert rates.false_positive == pytest.approx((a[0], b[0]))
    assert rates.false_negative == pytest.approx((a[1], b[1]))


def test_populations_that_do_not_differ_identify_nothing():
    assert rates_from_two_populations([cells(0.5, (0.1, 0.2), (0.2, 0.1))] * 2) is None


def test_the_measure_of_two_graders_holds_the_planted_rates():
    g = torch.Generator().manual_seed(3)
    population = torch.arange(8000) % 2
    right = torch.rand(8000, generator=g) < torch.where(population == 0, 0.25, 0.75)
    first, second = flipped(right, 0.15, 0.1, g), flipped(right, 0.05, 0.2, g)
    found = by_name(noise_from_two_graders(first, second, yes(8000), population, torch.arange(8000)))
    assert found["false-positive-rate-two-graders"].estimate.low < 0.15 < found["false-positive-rate-two-graders"].estimate.high
    assert found["false-negative-rate-two-graders"].estimate.low < 0.1 < found["false-negative-rate-two-graders"].estimate.high
    assert found["verdict-slope-two-graders"].estimate.value == pytest.approx(0.75, abs=0.06)
    one = noise_from_two_graders(first, second, yes(8000), torch.zeros(8000, dtype=torch.int64), torch.arange(8000))
    assert all(m.estimate is None and "one population" in m.note for m in one)


def test_gold_of_one_kind_measures_what_it_can():
    found = by_name(
        noise(torch.ones(5, dtype=F64), yes(5), torch.zeros(5, dtype=F64), torch.arange(5), source=torch.zeros(5).long())
    )
    assert found["false-positive-rate"].estimate.value == 1
    assert found["false-negative-rate"].estimate is None
    assert found["verdict-slope"].estimate is None
    assert all(m.estimate is None for m in noise(torch.ones(5, dtype=F64), yes(5), None, torch.arange(5)))
    assert all(m.estimate is None for m in noise(torch.ones(5, dtype=F64), ~yes(5), torch.ones(5, dtype=F64), torch.arange(5)))
