"""Intervals with prompts as the unit: closed forms they must equal, and how often they hold what they should."""

import math

import pytest
import torch
from scipy import stats

from payoff.audit.intervals_by_cluster import (
    bootstrap_means,
    jackknife,
    mean_band,
    percentile_interval,
    quantile_interval,
    ratio_of,
    share_interval,
    share_of,
    t_interval,
)
from payoff.intervals import mean_interval, wilson

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_the_jackknife_of_a_mean_is_its_squared_standard_error_in_any_chunks(monkeypatch):
    x = normal(50)
    sums = torch.stack([x, torch.ones(50, dtype=F64)], 1)
    value, variance = jackknife(sums, lambda s: s[:, 0] / s[:, 1])
    assert value == pytest.approx(float(x.mean()))
    assert variance == pytest.approx(float(x.var()) / 50)
    monkeypatch.setattr("payoff.audit.intervals_by_cluster.CHUNK", 7)
    assert jackknife(sums, lambda s: s[:, 0] / s[:, 1]) == pytest.approx((value, variance))


def test_a_prompt_that_cannot_be_left_out_leaves_no_interval():
    sums = torch.tensor([[1.0, 2], [0, 0], [0, 0]], dtype=F64)
    value, variance = jackknife(sums, lambda s: s[:, 0] / s[:, 1])
    assert value == 0.5
    assert math.isnan(variance)
    assert t_interval(value, variance, 3).low is None
    assert share_interval(value, variance, 3).low is None


def test_a_mean_over_prompts_has_the_ordinary_t_interval():
    x = normal(12, seed=1)
    ours, theirs = ratio_of(x, torch.ones(12, dtype=F64)), mean_interval(x.tolist())
    assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high))


def test_one_trial_per_prompt_is_nearly_wilsons_own_interval():
    hits = (torch.arange(1000) < 130).double()
    ours, theirs = share_of(hits, torch.ones(1000, dtype=F64)), wilson(130, 1000)
    assert ours.value == theirs.value
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=2e-4)


def test_ten_equal_answers_per_prompt_count_as_one():
    hits = (torch.arange(1000) < 130).double()
    once, tenfold = share_of(hits, torch.ones(1000, dtype=F64)), share_of(10 * hits, torch.full((1000,), 10.0, dtype=F64))
    assert tenfold == pytest.approx(once)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_no_exception_in_forty_prompts_still_leaves_room_on_one_side(value):
    interval = share_of(torch.full((40,), value, dtype=F64), torch.ones(40, dtype=F64))
    assert value in (interval.low, interval.high)
    assert 0.05 < interval.high - interval.low < 0.12


def test_fewer_than_three_prompts_have_no_interval_and_no_trials_no_share():
    assert share_of(torch.tensor([1.0, 0], dtype=F64), torch.tensor([2.0, 2], dtype=F64))[:3] == (0.25, None, None)
    assert share_of(torch.zeros(2, dtype=F64), torch.zeros(2, dtype=F64)) is None
    assert ratio_of(torch.zeros(0, dtype=F64), torch.zeros(0, dtype=F64)) is None


@pytest.mark.slow
def test_the_share_of_clustered_answers_is_held_as_often_as_promised():
    generator = torch.Generator().manual_seed(3)
    held = 0
    for _ in range(600):
        rate = torch.rand(30, 1, generator=generator, dtype=F64).square()  # prompts differ; their mean rate is 1/3
        hits = (torch.rand(30, 8, generator=generator, dtype=F64) < rate).double().sum(1)
        interval = share_of(hits, torch.full((30,), 8.0, dtype=F64))
        held += interval.low <= 1 / 3 <= interval.high
    assert 0.92 < held / 600 < 0.98


def test_quantile_ranks_are_those_of_the_binomial():
    values = [float(i) for i in range(1, 201)]
    interval = quantile_interval(values, 0.95)
    low, high = int(interval.low), int(interval.high)
    below = stats.binom(200, 0.95)
    assert below.cdf(low - 1) <= 0.025 < below.cdf(low)
    assert below.sf(high - 1) <= 0.025 < below.sf(high - 2)
    assert interval.value == 190.0


def test_a_quantile_needs_values_beyond_it():
    assert quantile_interval([1.0] * 5, 0.99)[:3] == (1.0, None, None)
    with pytest.raises(ValueError, match="needs values"):
        quantile_interval([], 0.5)


def test_bootstrap_means_repeat_and_spread_as_the_standard_error():
    curves = normal(400, 2, seed=4)
    means = bootstrap_means(curves)
    assert torch.equal(means, bootstrap_means(curves))
    torch.testing.assert_close(means.std(0), curves.std(0) / 20, rtol=0.15, atol=0)
    interval = percentile_interval(float(curves[:, 0].mean()), means[:, 0], 400)
    assert interval.low < interval.value < interval.high
    assert percentile_interval(0.0, torch.full((10,), math.nan, dtype=F64), 400).low is None


def test_bands_are_the_t_interval_at_every_point():
    curves = normal(9, 3, seed=5)
    mean, low, high = mean_band(curves)
    one = mean_interval(curves[:, 1].tolist())
    assert (mean[1], low[1], high[1]) == pytest.approx((one.value, one.low, one.high))
    assert all(map(math.isnan, mean_band(curves[:2])[1]))
