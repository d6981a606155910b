"""Statistics that are shown to people: intervals, paired differences, verdict words, and the point where reward and truth part.

The unit is one run (a seed). Up to twenty runs the interval of a mean is Student's t; bootstraps are too narrow there. With fewer
than three runs there are points, no interval and no verdict. Nothing here knows about files, figures or pages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from statistics import NormalDist, fmean, median, stdev
from typing import Literal, NamedTuple

Word = Literal["better", "worse", "equivalent", "inconclusive"]
FEWEST = 3  # runs below which neither an interval nor a verdict is given


class Interval(NamedTuple):
    """The mean of n runs with its two-sided interval; `low`, `high`, `sd` and `p` are None where n is too small.

    p is that of a mean of 0, two-sided, by the same t; `level` the share of such intervals that hold the true mean.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    level: float = 0.95
    sd: float | None = None
    p: float | None = None
    method: str = "t"


class Verdict(NamedTuple):
    """One of four words, and what the word alone leaves out ("by more than 0.05", "by less than matters")."""

    word: Word
    note: str = ""


class Parting(NamedTuple):
    """Where reward and truth part in one run: `at` on the curves' own axis, truth's fall and the reward's rise from there on."""

    at: float
    fall: float
    rise: float


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """The mean of independent runs and its Student t interval: mean +- t(n - 1) sd / sqrt(n), sd with n - 1.

    Fewer than three values give the mean alone. Equal values give an interval without width: the runs do not differ, which says
    nothing of any error they share. Raises ValueError for no values, for one that is not finite, and for a level outside (0, 1).

    >>> i = mean_interval([0.78, 0.78, 0.75, 0.81, 0.85])
    >>> f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}], n = {i.n}"
    '0.794 [0.747, 0.841], n = 5'
    """
    _check(values, level)
    n = len(values)
    centre = fmean(values)
    if n < FEWEST:
        return Interval(centre, None, None, n, level)
    sd = stdev(values)
    if not sd:  # equal, or so near to equal that no number is small enough to say by how much
        return Interval(values[0], values[0], values[0], n, level, 0.0, 0.0 if values[0] else 1.0)
    half = t_quantile(0.5 + level / 2, n - 1.0) * sd / math.sqrt(n)
    p = t_two_sided(centre * math.sqrt(n) / sd, n - 1.0)
    return Interval(centre, centre - half, centre + half, n, level, sd, p)


def paired_difference(arm: Mapping[int, float], baseline: Mapping[int, float], *, level: float = 0.95) -> Interval | None:
    """The mean of arm minus baseline over the seeds that both have, with its paired t interval; None where they share no seed.

    Pairs share starts, initial weights and random numbers, so what both have in common leaves the difference.

    >>> d = paired_difference({0: 0.84, 1: 0.83, 2: 0.81, 3: 0.85}, {0: 0.78, 1: 0.78, 2: 0.75, 4: 0.85})
    >>> round(d.value, 4), d.n
    (0.0567, 3)
    """
    shared = sorted(set(arm) & set(baseline))
    return mean_interval([arm[seed] - baseline[seed] for seed in shared], level=level) if shared else None


def wilson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """A rate of independent trials with its Wilson interval: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).

    No success still leaves room: 0 of 40 reaches up to 9 %. Raises ValueError unless 0 <= successes <= n and n >= 1.

    >>> i = wilson(0, 40)
    >>> f"{i.value:.0%} [{i.low:.0%}, {i.high:.0%}]"
    '0% [0%, 9%]'
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson: needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate = successes / n
    centre, spread = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == n else (centre + spread) / scale
    return Interval(rate, low, high, n, level, method="wilson")


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the i-th smallest of m times m - i + 1, never below a smaller one's.

    A comparison counts at 5 % when its adjusted p is below 0.05; then all of them together are wrong at most 5 % of the time.

    >>> [round(q, 10) for q in holm([0.04, 0.01, 0.03])]
    [0.06, 0.03, 0.06]
    """
    adjusted, floor = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        floor = max(floor, min(1.0, p[i] * (len(p) - rank)))
        adjusted[i] = floor
    return adjusted


def seeds_needed(sd: float, half_width: float, *, level: float = 0.95) -> int:
    """The fewest runs whose t interval would reach no further than `half_width` either way, were their spread `sd`.

    At least three. Raises ValueError for a half_width that is not positive.

    >>> seeds_needed(0.08, 0.05), seeds_needed(0.0, 0.05)
    (13, 3)
    """
    if not half_width > 0:
        raise ValueError(f"seeds_needed: half_width must be > 0, got {half_width}")
    quantile = 0.5 + level / 2
    start = (NormalDist().inv_cdf(quantile) * sd / half_width) ** 2  # t is wider than the normal, so never fewer than this
    n = max(FEWEST, math.floor(start))
    while n < 10_000 and t_quantile(quantile, n - 1.0) * sd / math.sqrt(n) > half_width:
        n += 1
    return n


def verdict(difference: Interval, delta: float, *, p: float | None = None) -> Verdict | None:
    """The word for a difference in truth: where its interval lies decides it; None where there is no interval.

    It leaves 0 out: better or worse, "by more than delta" if it leaves delta out too, "by less than matters" if it lies inside
    +-delta. It lies inside +-delta and holds 0: equivalent. Else inconclusive. `p`, adjusted for several arms, replaces the
    question whether the interval leaves 0 out. Raises ValueError for a delta below 0.

    >>> verdict(Interval(0.08, 0.04, 0.12, 5), 0.05), verdict(Interval(-0.19, -0.33, -0.06, 5), 0.05).note
    (Verdict(word='better', note=''), 'by more than 0.05')
    >>> verdict(Interval(0.01, -0.02, 0.04, 5), 0.05).word, verdict(Interval(-0.01, -0.10, 0.08, 5), 0.05).word
    ('equivalent', 'inconclusive')
    """
    if delta < 0:
        raise ValueError(f"verdict: delta must be >= 0, got {delta}")
    low, high = difference.low, difference.high
    if low is None or high is None:
        return None
    inside = -delta < low and high < delta
    apart = low > 0 or high < 0
    if p is not None:
        apart = apart and p < 1 - difference.level
    if not apart:
        return Verdict("equivalent" if inside else "inconclusive")
    note = "by less than matters" if inside else f"by more than {delta:g}" if low > delta or high < -delta else ""
    return Verdict("better" if difference.value > 0 else "worse", note)


def skewed(values: Sequence[float]) -> bool:
    """Whether five or more runs look too lopsided for a t interval to be trusted: mean and median half a deviation apart.

    >>> skewed([0.79, 0.75, 0.50, 0.80, 0.02]), skewed([0.78, 0.78, 0.75, 0.81, 0.85])
    (True, False)
    """
    if len(values) < 5 or min(values) == max(values):
        return False
    return abs(fmean(values) - median(values)) > 0.5 * stdev(values)


def parting_point(
    reward_curve: Sequence[tuple[float, float]], truth_curve: Sequence[tuple[float, float]], *, fall: float = 0.05
) -> Parting | None:
    """Where a run's own reward goes on rising while its truth falls; None where they do not part.

    The curves are (x, number) with rising x, on the same axis; truth has fewer points. The parting point is where truth stands
    highest (the last such place), if from there on
      - truth falls: at least two evaluations follow, and each of the last two lies at least `fall` below; and
      - the reward rises: its mean over the updates before the last evaluation lies above its mean around the parting point, by
        more than twice the standard error of that difference. Both means reach half the usual distance of two evaluations.
    From eight evaluations on, "highest" is judged on means of three neighbours, so that one lucky evaluation makes no peak.
    A truth that falls while the reward falls too, or that merely stops rising, is no parting.

    >>> reward = [(float(x), 4.0 + 0.1 * x) for x in range(0, 101)]
    >>> truth = list(zip([0.0, 20.0, 40.0, 60.0, 80.0, 100.0], [0.28, 0.48, 0.32, 0.04, 0.0, 0.0]))
    >>> parting_point(reward, truth).at
    20.0
    """
    if len(truth_curve) < 3 or not reward_curve:
        return None
    heights = [y for _, y in truth_curve]
    judged = [fmean(heights[max(0, i - 1) : i + 2]) for i in range(len(heights))] if len(heights) >= 8 else heights
    peak = max(range(len(judged)), key=lambda i: (judged[i], i))
    fallen = judged[peak] - fmean(heights[-2:])
    if len(heights) - 1 - peak < 2 or judged[peak] - max(heights[-2:]) < fall:
        return None
    x, end = truth_curve[peak][0], truth_curve[-1][0]
    reach = median(b[0] - a[0] for a, b in pairwise(truth_curve)) / 2
    there = [r for at, r in reward_curve if abs(at - x) <= reach]
    last = [r for at, r in reward_curve if end - reach < at <= end]
    if not there or not last:
        return None
    rise = fmean(last) - fmean(there)
    error = math.sqrt(sum(stdev(part) ** 2 / len(part) for part in (there, last) if len(part) > 1))
    return Parting(x, fallen, rise) if rise > 2 * error else None


def t_quantile(p: float, df: float) -> float:
    """The number that Student's t with `df` degrees of freedom stays below with probability p.

    >>> round(t_quantile(0.975, 4.0), 6)
    2.776445
    """
    if not 0 < p < 1 or not df > 0:
        raise ValueError(f"t_quantile: needs 0 < p < 1 and df > 0, got p = {p}, df = {df}")
    return _upper_quantile(1 - p, df) if p > 0.5 else -_upper_quantile(p, df)


def t_two_sided(t: float, df: float) -> float:
    """The probability that Student's t lies at least as far from 0 as t: I(df / (df + t^2); df / 2, 1/2).

    >>> round(t_two_sided(2.776445, 4.0), 6)
    0.05
    """
    if t == 0:
        return 1.0
    x = df / (df + t * t)
    return _incomplete_beta(df / 2, 0.5, x, t * t / (df + t * t))


@cache
def _upper_quantile(tail: float, df: float) -> float:
    """t >= 0 with P(T > t) = tail, for tail <= 1/2: bisection, the probability falls in t."""
    if tail >= 0.5:
        return 0.0
    low, high = 0.0, 1.0
    while t_two_sided(high, df) / 2 > tail:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_two_sided(middle, df) / 2 > tail else (low, middle)
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function; `rest` is 1 - x, given apart so that no digit is lost near either end."""
    if x <= 0:
        return 0.0
    if rest <= 0:
        return 1.0
    front = math.exp(a * math.log(x) + b * math.log(rest) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b))
    # The continued fraction converges fast on the side of the mean; the other side follows from I(x; a, b) = 1 - I(1 - x; b, a).
    if x < (a + 1) / (a + b + 2):
        return front * _continued_fraction(a, b, x) / a
    return 1 - front * _continued_fraction(b, a, rest) / b


def _continued_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, evaluated from the front; no partial denominator stays at 0."""
    tiny = 1e-300
    numerator = 1.0
    denominator = value = 1 / ((1 - (a + b) * x / (a + 1)) or tiny)
    for m in range(1, 10_000):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            denominator = 1 / ((1 + factor * denominator) or tiny)
            numerator = (1 + factor / numerator) or tiny
            change = numerator * denominator
            value *= change
        if abs(change - 1) < 1e-16:
            break
    return value


def _check(values: Sequence[float], level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"mean_interval: level must lie between 0 and 1, got {level}")
    if not values:
        raise ValueError("mean_interval: no values")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"mean_interval: every value must be finite, got {list(values)}")
