"""Intervals of statistics over rows that hang together: the prompt, and not the row, is the unit that was drawn.

Answers to one prompt resemble one another, so counting them as independent makes every interval too narrow. A statistic that is a
smooth function of sums over prompts gets a delete-one-prompt jackknife with Student's t; a share gets Wilson's interval at the
number of independent trials that has the same variance; a place on a curve gets a bootstrap over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from payoff.intervals import FEWEST, Interval, t_quantile

CHUNK = 1 << 16  # prompts whose leave-one-out sums are held at a time
SEED = 20_011


def jackknife(
    sums: Float64[Tensor, "G K"], statistic: Callable[[Float64[Tensor, "G K"]], Float64[Tensor, " G"]]
) -> tuple[float, float]:
    """A function of sums over prompts, and its variance by leaving out one prompt at a time.

    value = f(S), S = sum_g s_g; variance = (G - 1) / G sum_g (f(S - s_g) - mean)^2. For a mean this is exactly the squared
    standard error s^2 / G. `statistic` maps rows of sums to one number per row. The variance is nan where some prompt cannot be
    left out (f is not finite without it) or where there is but one.

    >>> value, variance = jackknife(torch.tensor([[1.0, 1], [2, 1], [3, 1], [6, 1]]).double(), lambda s: s[:, 0] / s[:, 1])
    >>> value, round(variance, 6)  # standard error sqrt(14 / 3 / 4)
    (3.0, 1.166667)
    """
    total = sums.sum(0, keepdim=True)
    value = float(statistic(total)[0])
    left_out = [statistic(total - part) for part in sums.split(CHUNK)]
    return value, left_out_variance(torch.cat(left_out)) if left_out else math.nan


def left_out_variance(left_out: Float64[Tensor, " G"]) -> float:
    """The jackknife's variance from the G statistics without one prompt each; nan where one of them is not finite, or G < 2."""
    count = len(left_out)
    if count < 2 or not bool(left_out.isfinite().all()):
        return math.nan
    centred = left_out - left_out[0]  # equal statistics leave exactly 0
    return float((centred - centred.mean()).square().sum()) * (count - 1) / count


def t_interval(value: float, variance: float, clusters: int, *, level: float = 0.95, method: str = "jackknife-t") -> Interval:
    """value +- t(G - 1) sqrt(variance); no interval for fewer than three prompts or a variance that is not known."""
    if clusters < FEWEST or not math.isfinite(variance):
        return Interval(value, None, None, clusters, level, method=method)
    half = t_quantile(0.5 + level / 2, clusters - 1.0) * math.sqrt(variance)
    return Interval(value, value - half, value + half, clusters, level, method=method)


def share_interval(value: float, variance: float, clusters: int, *, level: float = 0.95) -> Interval:
    """A share in 0..1 with Wilson's interval at n' independent trials, n' = p (1 - p) / variance, times (z / t)^2 for few prompts.

    Without any variance (all prompts agree) n' is the number of prompts: no wrong answer in 40 prompts still leaves room for one.
    For one trial per prompt n' is within a few trials of n, and this is Wilson's own interval.

    >>> i = share_interval(0.0, 0.0, 40)
    >>> f"{i.low:.0%} to {i.high:.0%}"
    '0% to 9%'
    """
    if clusters < FEWEST or not math.isfinite(variance):
        return Interval(value, None, None, clusters, level, method="wilson by prompt")
    z, t = NormalDist().inv_cdf(0.5 + level / 2), t_quantile(0.5 + level / 2, clusters - 1.0)
    within = value * (1 - value)
    trials = within / variance if variance > 0 and within > 0 else float(clusters)
    trials *= (z / t) ** 2
    scale = 1 + z * z / trials
    centre, spread = value + z * z / (2 * trials), z * math.sqrt(within / trials + z * z / (4 * trials * trials))
    low = 0.0 if value <= 0 else min((centre - spread) / scale, value)
    high = 1.0 if value >= 1 else max((centre + spread) / scale, value)
    return Interval(value, low, high, clusters, level, method="wilson by prompt")


def share_of(hits: Float64[Tensor, " G"], trials: Float64[Tensor, " G"], *, level: float = 0.95) -> Interval | None:
    """The share sum(hits) / sum(trials) over prompts that were tried at all, with its interval; None where nothing was tried.

    >>> share_of(torch.tensor([1.0, 0, 1, 2]).double(), torch.tensor([2.0, 2, 2, 2]).double()).value
    0.5
    """
    tried = trials > 0
    if not bool(tried.any()):
        return None
    value, variance = jackknife(torch.stack([hits[tried], trials[tried]], 1), _ratio)
    return share_interval(value, variance, int(tried.sum()), level=level)


def ratio_of(top: Float64[Tensor, " G"], bottom: Float64[Tensor, " G"], *, level: float = 0.95) -> Interval | None:
    """The ratio sum(top) / sum(bottom) over prompts where bottom is not 0, with its t interval; None where there is none.

    With bottom 1 everywhere it is the mean over prompts with the ordinary t interval.

    >>> from payoff.intervals import mean_interval
    >>> a, b = ratio_of(torch.tensor([1.0, 2, 3, 6]).double(), torch.ones(4).double()), mean_interval([1.0, 2.0, 3.0, 6.0])
    >>> a.value == b.value and abs(a.low - b.low) < 1e-9
    True
    """
    counts = bottom != 0
    if not bool(counts.any()):
        return None
    value, variance = jackknife(torch.stack([top[counts], bottom[counts]], 1), _ratio)
    return t_interval(value, variance, int(counts.sum()), level=level)


def _ratio(sums: Float64[Tensor, "G 2"]) -> Float64[Tensor, " G"]:
    return sums[:, 0] / sums[:, 1]


def mean_band(curves: Float64[Tensor, "G M"], *, level: float = 0.95) -> tuple[list[float], list[float], list[float]]:
    """The mean curve over prompts with the ends of its t interval at every point; nan ends for fewer than three prompts."""
    count = len(curves)
    mean = curves.mean(0)
    if count < FEWEST:
        none = [math.nan] * curves.shape[1]
        return mean.tolist(), none, none
    half = t_quantile(0.5 + level / 2, count - 1.0) * curves.std(0) / math.sqrt(count)
    return mean.tolist(), (mean - half).tolist(), (mean + half).tolist()


def bootstrap_means(curves: Float64[Tensor, "G M"], *, replicates: int = 400, seed: int = SEED) -> Float64[Tensor, "B M"]:
    """Mean curves of `replicates` sets of G prompts drawn with replacement; the same draws for the same seed and G."""
    generator = torch.Generator().manual_seed(seed)
    count = len(curves)
    means = curves.new_empty(replicates, curves.shape[1])
    for replicate in range(replicates):
        drawn = torch.randint(count, (count,), generator=generator)
        means[replicate] = torch.bincount(drawn, minlength=count).double() @ curves / count
    return means


def percentile_interval(value: float, replicates: Float64[Tensor, " B"], clusters: int, *, level: float = 0.95) -> Interval:
    """The middle `level` of bootstrap replicates, stretched to hold `value`; those that are not a number count as no interval.

    No interval for fewer than three prompts, nor where more than one replicate in twenty could not be computed.
    """
    known = replicates[~replicates.isnan()]
    if clusters < FEWEST or len(known) < 0.95 * len(replicates):
        return Interval(value, None, None, clusters, level, method="bootstrap over prompts")
    ordered = known.sort().values
    ends = [ordered[min(len(known) - 1, int(q * len(known)))].item() for q in (0.5 - level / 2, 0.5 + level / 2)]
    return Interval(value, min(ends[0], value), max(ends[1], value), clusters, level, method="bootstrap over prompts")


def quantile_interval(values: Sequence[float], q: float, *, level: float = 0.95) -> Interval:
    """The q-quantile of independent numbers, and the order statistics between which it lies whatever their distribution.

    The value is the ceil(q n)-th smallest. The number of values below the true quantile is binomial(n, q): the interval is cut
    where each tail holds at most half of 1 - level. An end that no order statistic can give (too few values) leaves no interval.
    Raises ValueError for no values and for q outside (0, 1).

    >>> quantile_interval([float(i) for i in range(1, 101)], 0.5)[:3]
    (50.0, 40.0, 61.0)
    """
    if not values or not 0 < q < 1:
        raise ValueError(f"quantile_interval: needs values and 0 < q < 1, got {len(values)} values and q = {q}")
    n, tail = len(values), (1 - level) / 2
    ordered = torch.tensor(values, dtype=torch.float64).sort().values
    value = float(ordered[max(0, math.ceil(q * n) - 1)])
    below = _binomial(n, q).cumsum(0)  # P(at most k of n lie below the quantile)
    first = int((below <= tail).sum())  # the largest rank with P(fewer than that many below) <= tail
    last = int((below < 1 - tail).sum()) + 1
    if first < 1 or last > n:
        return Interval(value, None, None, n, level, method="order statistics")
    return Interval(value, float(ordered[first - 1]), float(ordered[last - 1]), n, level, method="order statistics")


def _binomial(n: int, q: float) -> Float64[Tensor, " K"]:
    k = torch.arange(n + 1, dtype=torch.float64)
    choose = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return (choose + k * math.log(q) + (n - k) * math.log1p(-q)).exp()


def sum_by(x: Float64[Tensor, " N"], index: Int64[Tensor, " N"], size: int) -> Float64[Tensor, " G"]:
    """The sum of the entries of each of `size` prompts."""
    return x.new_zeros(size).index_add(0, index, x)
