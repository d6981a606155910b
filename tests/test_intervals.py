"""Intervals, verdict words and parting points, against closed forms, scipy, and numbers worked by hand."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.intervals import (
    Interval,
    holm,
    mean_interval,
    paired_difference,
    parting_point,
    seeds_needed,
    skewed,
    t_quantile,
    t_two_sided,
    verdict,
    wilson,
)

DEGREES = (1.0, 2.0, 3.0, 4.0, 7.0, 19.0, 100.0, 999.0, 10_000.0)


@pytest.mark.parametrize("df", DEGREES)
def test_t_quantiles_equal_scipy(df):
    for p in (0.001, 0.025, 0.3, 0.5, 0.6, 0.9, 0.975, 0.995, 0.9999):
        assert t_quantile(p, df) == pytest.approx(scipy.stats.t.ppf(p, df), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("df", DEGREES)
def test_t_tails_equal_scipy(df):
    for t in (0.0, 1e-6, 0.1, 1.0, 2.5, 10.0, 60.0):
        assert t_two_sided(t, df) == pytest.approx(2 * scipy.stats.t.sf(t, df), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("p", [0.51, 0.8, 0.975, 0.999])
def test_t_quantile_has_its_closed_form_at_one_and_two_degrees(p):
    # df = 1 is Cauchy; df = 2 has F(t) = 1/2 + t / (2 sqrt(2 + t^2)).
    assert t_quantile(p, 1.0) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-10)
    assert t_quantile(p, 2.0) == pytest.approx((2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p))), rel=1e-10)


@pytest.mark.parametrize(("p", "df"), [(0.0, 3.0), (1.0, 3.0), (0.5, 0.0)])
def test_t_quantile_refuses_what_has_none(p, df):
    with pytest.raises(ValueError, match="t_quantile"):
        t_quantile(p, df)


def test_mean_interval_by_hand():
    # Values 1, 2, 3: mean 2, sd 1, standard error 1/sqrt(3); t(2) at 97.5 % is 4.302653.
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.value == 2
    assert interval.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert interval.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert (interval.n, interval.sd, interval.method) == (3, 1, "t")


def test_p_value_equals_scipy():
    values = [0.02, 0.05, -0.01, 0.04, 0.06]
    assert mean_interval(values).p == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, rel=1e-10)


def test_mean_interval_holds_the_mean_95_times_in_100():
    draws = np.random.default_rng(0).normal(1.0, 0.3, size=(2000, 5))
    held = np.mean([i.low <= 1.0 <= i.high for i in (mean_interval(row.tolist()) for row in draws)])
    assert 0.94 < held < 0.96  # standard error 0.005; a normal quantile in place of t would give 0.88


@pytest.mark.parametrize("values", [[0.4], [0.4, 0.6]])
def test_fewer_than_three_runs_have_no_interval(values):
    interval = mean_interval(values)
    assert (interval.low, interval.high, interval.p) == (None, None, None)
    assert verdict(interval, 0.05) is None


def test_equal_runs_have_an_interval_without_width():
    assert mean_interval([0.1] * 5)[:3] == (0.1, 0.1, 0.1)
    assert mean_interval([0.1] * 5).p == 0
    assert mean_interval([0.0] * 5).p == 1


@pytest.mark.parametrize("values", [[], [1.0, math.nan, 2.0], [1.0, math.inf]])
def test_mean_interval_refuses_what_has_no_mean(values):
    with pytest.raises(ValueError, match="mean_interval"):
        mean_interval(values)


def test_paired_difference_pairs_by_seed_and_not_by_order():
    arm, base = {3: 0.9, 1: 0.5, 2: 0.7, 9: 0.0}, {1: 0.4, 2: 0.6, 3: 0.8, 7: 1.0}
    difference = paired_difference(arm, base)
    assert difference.n == 3
    assert difference.value == pytest.approx(0.1)
    assert difference.high - difference.low == pytest.approx(0, abs=1e-12)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=8), st.floats(-5, 5))
def test_paired_difference_ignores_what_both_arms_share(noise, shift):
    arm = {i: value + shift for i, value in enumerate(noise)}
    base = dict(enumerate(noise))
    assert paired_difference(arm, base).value == pytest.approx(shift, abs=1e-9)


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (3, 20), (31, 40), (40, 40), (1, 1)])
def test_wilson_equals_scipy(hits, n):
    expected = scipy.stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n).low == pytest.approx(expected.low, abs=1e-12)
    assert wilson(hits, n).high == pytest.approx(expected.high, abs=1e-12)


@pytest.mark.parametrize(("n", "upper"), [(20, 0.16), (40, 0.09), (300, 0.013)])
def test_no_success_still_leaves_room(n, upper):
    assert wilson(0, n).high == pytest.approx(upper, abs=0.005)


@pytest.mark.parametrize(("hits", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_impossible_counts(hits, n):
    with pytest.raises(ValueError, match="wilson"):
        wilson(hits, n)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.9 times 4, 3, 2, 1: 0.04, 0.06, 0.06 and 0.9; the third may not fall below the second.
    assert holm([0.03, 0.9, 0.01, 0.02]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([0.8, 0.7]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.randoms())
def test_holm_follows_the_order_it_is_given(p, draw):
    order = list(range(len(p)))
    draw.shuffle(order)
    assert holm([p[i] for i in order]) == pytest.approx([holm(p)[i] for i in order])
    assert all(q >= raw for raw, q in zip(p, holm(p)))


@settings(deadline=None, max_examples=50)
@given(st.floats(0.001, 0.5), st.floats(0.01, 0.3))
def test_seeds_needed_is_the_fewest_that_reach(sd, width):
    n = seeds_needed(sd, width)

    def half(m):
        return scipy.stats.t.ppf(0.975, m - 1) * sd / math.sqrt(m)

    assert half(n) <= width * (1 + 1e-9)
    assert n == 3 or half(n - 1) > width * (1 - 1e-9)


def test_seeds_needed_refuses_a_width_of_zero():
    with pytest.raises(ValueError, match="seeds_needed"):
        seeds_needed(0.1, 0.0)


@pytest.mark.parametrize(
    ("low", "high", "word", "note"),
    [
        (0.01, 0.12, "better", ""),
        (0.06, 0.12, "better", "by more than 0.05"),
        (0.01, 0.04, "better", "by less than matters"),
        (-0.12, -0.01, "worse", ""),
        (-0.12, -0.06, "worse", "by more than 0.05"),
        (-0.04, -0.01, "worse", "by less than matters"),
        (-0.04, 0.04, "equivalent", ""),
        (0.0, 0.04, "equivalent", ""),
        (-0.05, 0.04, "inconclusive", ""),
        (-0.10, 0.08, "inconclusive", ""),
        (0.0, 0.3, "inconclusive", ""),
    ],
)
def test_where_the_interval_lies_decides_the_word(low, high, word, note):
    assert verdict(Interval((low + high) / 2, low, high, 5), 0.05) == (word, note)


def test_an_adjusted_p_replaces_the_question_of_zero_alone():
    wide, narrow = Interval(0.06, 0.01, 0.11, 5), Interval(0.02, 0.01, 0.03, 5)
    assert verdict(wide, 0.05, p=0.06).word == "inconclusive"
    assert verdict(narrow, 0.05, p=0.06).word == "equivalent"
    assert verdict(wide, 0.05, p=0.04).word == "better"


def test_lopsided_seeds_are_noticed_from_five_on():
    # Mean 0.572, median 0.75, deviation 0.33: 0.54 deviations apart.
    assert skewed([0.79, 0.75, 0.50, 0.80, 0.02])
    assert not skewed([0.70, 0.75, 0.80, 0.85, 0.90])
    assert not skewed([0.0, 0.0, 1.0])
    assert not skewed([0.5] * 6)


def rising(to=100):
    return [(float(x), 4.0 + 0.08 * x) for x in range(to + 1)]


def at_tens(truth):
    return [(10.0 * i, value) for i, value in enumerate(truth)]


GAMED = at_tens([0.28, 0.44, 0.48, 0.45, 0.32, 0.15, 0.04, 0.02, 0.01, 0.0, 0.0])


def test_reward_and_truth_part_where_truth_stands_highest():
    found = parting_point(rising(), GAMED)
    # Means of three neighbours: 0.40 at 10, 0.457 at 20, 0.417 at 30; the last two evaluations are 0.
    assert found.at == 20
    assert found.fall == pytest.approx((0.44 + 0.48 + 0.45) / 3)
    # Own reward around 20 (15 to 25) averages 5.6, before the end (96 to 100) 11.84.
    assert found.rise == pytest.approx(11.84 - 5.6)


def test_a_truth_that_falls_from_the_start_parts_at_the_start():
    assert parting_point(rising(), at_tens([0.27, 0.20, 0.06, 0.03, 0.0, 0.0])).at == 0


@pytest.mark.parametrize(
    "truth",
    [
        [0.28, 0.38, 0.44, 0.50, 0.60, 0.65, 0.69, 0.73, 0.77, 0.78, 0.79],  # rises
        [0.28, 0.40, 0.60, 0.80, 0.79, 0.81, 0.78, 0.80, 0.82, 0.79, 0.80],  # a plateau with noise
        [0.28, 0.40, 0.50, 0.60, 0.70, 0.75, 0.78, 0.80, 0.80, 0.80, 0.70],  # one bad evaluation at the end
        [0.50, 0.49, 0.48, 0.47, 0.47, 0.47],  # falls by less than matters
        [0.5, 0.1],  # too few evaluations to tell
        [],
    ],
)
def test_no_parting_without_a_lasting_fall_of_truth(truth):
    assert parting_point(rising(), at_tens(truth)) is None


def test_no_parting_where_the_reward_falls_or_stands_still_too():
    falling = [(x, -reward) for x, reward in rising()]
    noisy = [(float(x), 5.0 + (0.5 if x % 2 else -0.5)) for x in range(101)]
    assert parting_point(falling, GAMED) is None
    assert parting_point(noisy, GAMED) is None
    assert parting_point([], GAMED) is None


def test_a_larger_fall_may_be_asked_for():
    slow = at_tens([0.50, 0.55, 0.55, 0.50, 0.45, 0.40])
    assert parting_point(rising(50), slow, fall=0.05) is not None
    assert parting_point(rising(50), slow, fall=0.2) is None


@settings(deadline=None)
@given(st.floats(0.01, 100), st.floats(-50, 50), st.floats(0.1, 10), st.integers(0, 1000))
def test_the_unit_of_the_reward_and_of_the_axis_move_no_parting(scale, offset, stretch, shift):
    reward = [(stretch * x + shift, scale * r + offset) for x, r in rising()]
    truth = [(stretch * x + shift, value) for x, value in GAMED]
    found = parting_point(reward, truth)
    assert found is not None
    assert found.at == pytest.approx(stretch * 20 + shift)


def test_flat_truth_with_the_noise_of_256_prompts_rarely_parts():
    draws = np.random.default_rng(0).normal(0.5, 0.03, size=(1000, 11))
    parted = sum(parting_point(rising(), at_tens(row.tolist())) is not None for row in draws)
    assert parted / 1000 < 0.05  # that three seeds of five do is then below 0.2 %
