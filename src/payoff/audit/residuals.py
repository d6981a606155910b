"""What of a reward is left when the truth is taken out of it, and with what that goes together."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from payoff.audit.intervals_by_cluster import sum_by
from payoff.intervals import FEWEST, Interval, t_quantile

NOTHING = 1e-10  # share of variance below which nothing is left: rounding


def ranks(x: Float64[Tensor, " N"]) -> Float64[Tensor, " N"]:
    """The place of every number among all, from 1; equal numbers share the mean of their places.

    >>> ranks(torch.tensor([5.0, 1, 5, 9]).double()).tolist()
    [2.5, 1.0, 2.5, 4.0]
    """
    _, where, counts = torch.unique(x, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[where]


def residual(y: Float64[Tensor, " N"], given: Float64[Tensor, "N K"] | None) -> Float64[Tensor, " N"]:
    """y less its least-squares fit on a constant and the columns of `given`; exactly 0 where only rounding is left."""
    centred = y - y.mean()
    left = centred
    if given is not None:
        z = given - given.mean(0)
        left = centred - z @ torch.linalg.lstsq(z, centred[:, None], driver="gelsd").solution[:, 0]
    total = centred.square().sum()
    return torch.zeros_like(y) if left.square().sum() <= NOTHING * total or total == 0 else left


def partial_rank_correlation(
    y: Float64[Tensor, " N"],
    x: Float64[Tensor, " N"],
    cluster: Int64[Tensor, " N"],
    *,
    given: Float64[Tensor, " N"] | None = None,
    level: float = 0.95,
) -> tuple[Interval | None, Float64[Tensor, " N"]]:
    """The correlation of the ranks of y and x once that of `given` is taken out of both, and each row's part in it.

    rho = mean(u v), u and v the residuals of the ranks on those of `given`, each with variance 1 (Frisch-Waugh). Row i moves rho
    by u_i v_i - rho (u_i^2 + v_i^2) / 2, over N; summed by cluster their squares give the standard error s, and the interval is
    tanh(atanh rho +- t s / (1 - rho^2)), t that of one less than the number of clusters.

    Nothing left of y once `given` is known: exactly 0, without width: no x can explain it. Nothing left of x: None.

    >>> gold = torch.arange(60).double() % 2
    >>> length = torch.arange(60).double()
    >>> partial_rank_correlation(gold, length, torch.arange(60), given=gold)[0].value
    0.0
    >>> partial_rank_correlation(gold + length / 100, length, torch.arange(60), given=gold)[0].value > 0.9
    True
    """
    z = None if given is None else ranks(given)[:, None]
    v, u = residual(ranks(x), z), residual(ranks(y), z)
    clusters = int(cluster.unique().numel())
    if len(x) < 2 or not v.any():
        return None, torch.zeros_like(y)
    if not u.any():
        return Interval(0.0, 0.0, 0.0, clusters, level, method="partial rank correlation, by prompt"), torch.zeros_like(y)
    u, v = u / u.square().mean().sqrt(), v / v.square().mean().sqrt()
    parts = u * v
    rho = float(parts.mean().clamp(-1, 1))
    moves = parts - rho * (u.square() + v.square()) / 2
    if clusters < FEWEST:
        return Interval(rho, None, None, clusters, level, method="partial rank correlation, by prompt"), parts
    names, index = cluster.unique(return_inverse=True)
    by_cluster = sum_by(moves, index, len(names))
    error = float(by_cluster.square().sum().sqrt()) / len(x) * math.sqrt(clusters / (clusters - 1))
    rest = 1 - rho * rho
    if rest < 1e-12:
        low = high = rho
    else:
        half = t_quantile(0.5 + level / 2, clusters - 1.0) * error / rest
        low, high = math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half)
    return Interval(rho, low, high, clusters, level, method="partial rank correlation, by prompt"), parts


def size_of(interval: Interval) -> Interval:
    """The interval of |x| from that of x: it begins at 0 where 0 is inside.

    >>> size_of(Interval(-0.1, -0.3, 0.05, 9))[:3], size_of(Interval(-0.4, -0.6, -0.2, 9))[:3]
    ((0.1, 0.0, 0.3), (0.4, 0.2, 0.6))
    """
    low, high = interval.low, interval.high
    if low is None or high is None:
        return interval._replace(value=abs(interval.value))
    inside = low <= 0 <= high
    return interval._replace(
        value=abs(interval.value), low=0.0 if inside else min(abs(low), abs(high)), high=max(abs(low), abs(high))
    )


def explained_by(
    y: Float64[Tensor, " N"],
    label: Int64[Tensor, " N"],
    given: Float64[Tensor, " N"],
    cluster: Int64[Tensor, " N"],
    *,
    replicates: int = 400,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """The share of what `given` leaves of y that labels explain, each label with a level and a slope of its own.

    1 - (SSR_1 / (N - 2 S)) / (SSR_0 / (N - 2)), SSR_0 of y on 1 and given, SSR_1 with both for each of the S labels: corrected for
    the number of labels, so that labels that mean nothing explain 0 on average; never below 0. Clusters are drawn with
    replacement for the interval. Nothing left by `given`: exactly 0. Fewer than two labels or too few rows: None.

    >>> given, label = torch.arange(80).double() % 4, torch.arange(80) // 40
    >>> share = explained_by(given * (1 + 2 * label), label, given, torch.arange(80))
    >>> round(share.value, 6)
    1.0
    """
    sources = int(label.max()) + 1 if len(label) else 0
    n, clusters = len(y), int(cluster.unique().numel())
    if sources < 2 or n <= 2 * sources + 2:
        return None
    if not residual(y, given[:, None]).any():
        return Interval(0.0, 0.0, 0.0, clusters, level, method="bootstrap over prompts")
    # Centred first: sums of squares of far-off numbers would lose their digits. Scaled so that one small number fits all.
    y = (y - y.mean()) / y.std()
    x = (given - given.mean()) / (given.std() if given.std() > 0 else 1.0)
    terms = torch.stack([torch.ones_like(y), x, y, x * x, x * y, y * y], 1)
    names, index = cluster.unique(return_inverse=True)
    cells = terms.new_zeros(len(names) * sources, 6).index_add(0, index * sources + label, terms).reshape(len(names), -1)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(names), (replicates, len(names)), generator=generator)
    weights = torch.zeros(replicates, len(names), dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double())
    sums = torch.cat([cells.sum(0, keepdim=True), weights @ cells]).reshape(replicates + 1, sources, 6)
    total, within = _squares_left(sums.sum(1)), _squares_left(sums).sum(1)
    share = (1 - (within / (n - 2 * sources)) / (total / (n - 2)).clamp(min=1e-300)).clamp(0, 1)
    value, others = float(share[0]), share[1:].sort().values
    if clusters < FEWEST:
        return Interval(value, None, None, clusters, level, method="bootstrap over prompts")
    ends = [float(others[min(replicates - 1, int(q * replicates))]) for q in (0.5 - level / 2, 0.5 + level / 2)]
    return Interval(value, min(ends[0], value), max(ends[1], value), clusters, level, method="bootstrap over prompts")


def _squares_left(sums: Float64[Tensor, "... 6"]) -> Float64[Tensor, "..."]:
    """The sum of squares that a straight line leaves, from the sums of 1, x, y, x^2, xy and y^2."""
    n, x, y, xx, xy, yy = sums.unbind(-1)
    n = n.clamp(min=1e-300)
    sxx, sxy, syy = xx - x * x / n, xy - x * y / n, yy - y * y / n
    fit = torch.where(sxx > NOTHING * xx.clamp(min=1e-300), sxy * sxy / sxx.clamp(min=1e-300), torch.zeros_like(sxx))
    return (syy - fit).clamp(min=0)
