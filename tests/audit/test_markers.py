"""Markers and being right: exact against every permutation, uniform where nothing depends, and freed of the prompts."""

from itertools import permutations

import pytest
from scipy.stats import pointbiserialr

from payoff.audit.markers import marker_correlation

PROMPTS = ["a"] * 4 + ["b"] * 3
MARKED = [1, 1, 0, 0, 1, 0, 0]
SAID = {0: "It is 7.", 1: "Wait, it is 7."}


def found(right, marked=MARKED, prompts=PROMPTS):
    return marker_correlation([SAID[x] for x in marked], right, prompts)


def test_p_is_the_share_of_all_deals_within_prompts_that_are_as_far_off():
    right = [1, 1, 0, 0, 1, 0, 1]
    both = [
        sum(x * y for x, y in zip([*one, *two], right, strict=True))
        for one in permutations(MARKED[:4])
        for two in permutations(MARKED[4:])
    ]
    mean = 2 * 2 / 4 + 1 * 2 / 3
    share = sum(abs(count - mean) >= abs(3 - mean) - 1e-9 for count in both) / len(both)
    assert found(right).p == pytest.approx(share)
    whole = [sum(x * y for x, y in zip(deal, right, strict=True)) for deal in permutations(MARKED)]
    share = sum(abs(count - 3 * 4 / 7) >= 3 - 3 * 4 / 7 - 1e-9 for count in whole) / len(whole)
    assert found(right, prompts=None).p == pytest.approx(share)


def test_p_is_uniform_as_far_as_a_discrete_one_can_be_where_markers_are_dealt_at_random():
    ps = [found([*one, *two]).p for one in set(permutations([1, 1, 1, 0])) for two in set(permutations([1, 0, 0]))]
    assert len(set(ps)) > 1
    for level in set(ps):
        assert sum(p <= level + 1e-9 for p in ps) / len(ps) == pytest.approx(level)


def test_the_correlation_is_the_point_biserial_one_and_within_prompts_that_of_deviations():
    right = [1, 1, 0, 0, 1, 0, 1]
    assert found(right, prompts=None).correlation == pytest.approx(pointbiserialr(MARKED, right).statistic)
    # Deviations: a: x .5 .5 -.5 -.5, y .5 .5 -.5 -.5; b: x 2/3 -1/3 -1/3, y 1/3 -2/3 1/3. (1 + 1/3) / sqrt((1 + 2/3)(1 + 2/3))
    assert found(right).correlation == pytest.approx((4 / 3) / (5 / 3))
    assert (found(right).right_with, found(right).right_without, found(right).rate.value) == (1.0, 0.25, pytest.approx(3 / 7))


def test_hard_prompts_that_bring_second_thoughts_make_no_correlation_within_prompts():
    """Markers in 9 of 12 and 3 of 12 answers, right are 4 and 8: of those with a marker, as of those without, a third and two."""
    marked, prompts = [1] * 9 + [0] * 3 + [1] * 3 + [0] * 9, ["hard"] * 12 + ["easy"] * 12
    right = [1] * 3 + [0] * 6 + [1, 0, 0] + [1, 1, 0] + [1] * 6 + [0] * 3
    assert found(right, marked, None).correlation == pytest.approx(-1 / 6)  # (5 - 12 x 12 / 24) / 6
    within = found(right, marked, prompts)
    assert within.correlation == pytest.approx(0.0)
    assert within.p == pytest.approx(1.0)


def test_what_says_nothing_has_no_correlation_and_unknown_verdicts_do_not_count():
    assert found([1] * 7).correlation is None
    assert found([1] * 7).p is None
    assert found([0] * 4 + [1] * 3).correlation is None  # prompts alone differ
    assert marker_correlation([], []).rate is None
    assert found([None] * 4 + [1, 0, 0]).n == 3
    assert marker_correlation(["Waiting for 7", "AHA! 7"], [1, 1]).rate.value == 0.5
    with pytest.raises(ValueError, match="as many verdicts"):
        marker_correlation(["a"], [])
