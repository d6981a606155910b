"""Where each of several rewards stops telling what is truly wanted, searched without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method


class ProxyPoints(NamedTuple):
    """The best thresholds met, what was measured there (-inf: nothing ever was), and everything tried, in order."""

    thresholds: dict[str, float]
    value: float
    tried: list[tuple[dict[str, float], float | None]]


class Peak(NamedTuple):
    """Of a fitted surface.

    point:     where it is greatest. value: the fitted number there
    explained: R^2 of the fit; None where all numbers are equal
    inside:    the surface has a summit within the box of the points; otherwise `point` is the best of the points themselves, and
               the summit, if there is one, lies outside what was tried
    """

    point: Float[Tensor, " K"]
    value: float
    explained: float | None
    inside: bool


@method("proxy-points", kind="search", paper="arXiv:2310.04373")
def proxy_points(
    evaluate: Callable[[dict[str, float]], float | None],
    start: Mapping[str, float],
    *,
    spread: Mapping[str, float] | float,
    iterations: int = 10,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    reflection: float = 1.0,
    expansion: float = 2.0,
    contraction: float = 0.5,
    shrinkage: float = 0.5,
) -> ProxyPoints:
    """Search thresholds by Nelder-Mead on a measure of what is truly wanted (constrained RLHF, NM-PPO).

    evaluate: thresholds -> the measure, greater is better. In the paper a fixed piece of one training run: hold the thresholds
              (`ConstrainedMixing.hold`) for some updates, then evaluate; so K rewards cost one run and not a grid of runs.
              None or NaN is the worst there is.
    start, spread: the simplex is `start` and, for each reward, `start` with that one moved by its spread (one number for all)
    iterations: simplex steps after that; each evaluates one or two points, a shrinking step 1 + K
    bounds:   reward -> (lowest, highest); points are cut to them

    Values are not taken again: where one run goes on from point to point, early ones are of an earlier policy, and noise that
    once looked good stays the best. What is returned is the best value met, so measure it afresh on other starts.
    One reward is allowed. Raises ValueError for no reward, a spread of 0 or for other rewards, iterations < 0, and coefficients
    without reflection > 0, expansion > max(1, reflection), 0 < contraction < 1, 0 < shrinkage < 1.

    >>> found = proxy_points(lambda at: -(at["wit"] - 2.0) ** 2, {"wit": 0.0}, spread=1.0, iterations=8)
    >>> found.thresholds, found.value, len(found.tried)
    ({'wit': 2.0}, -0.0, 18)
    """
    names = list(start)
    steps = dict.fromkeys(names, spread) if isinstance(spread, int | float) else dict(spread)
    _check(names, steps, iterations, bounds, reflection, expansion, contraction, shrinkage)
    tried: list[tuple[dict[str, float], float | None]] = []

    def worth(point: list[float]) -> tuple[float, list[float]]:
        if bounds:
            limits = [bounds.get(name, (-math.inf, math.inf)) for name in names]
            point = [min(max(x, low), high) for x, (low, high) in zip(point, limits, strict=True)]
        thresholds = dict(zip(names, point, strict=True))
        value = evaluate(dict(thresholds))
        value = None if value is None or math.isnan(value) else float(value)
        tried.append((thresholds, value))
        return (-math.inf if value is None else value), point

    def between(a: list[float], b: list[float], share: float) -> list[float]:
        return [x + share * (y - x) for x, y in zip(a, b, strict=True)]

    first = [float(start[name]) for name in names]
    corners = [first] + [[x + (steps[name] if i == k else 0.0) for i, x in enumerate(first)] for k, name in enumerate(names)]
    simplex = [worth(corner) for corner in corners]
    for _ in range(iterations):
        simplex.sort(key=lambda corner: -corner[0])  # stable: of equal values the older point stands before
        worst = simplex[-1]
        middle = [sum(column) / len(names) for column in zip(*(point for _, point in simplex[:-1]), strict=True)]
        mirrored = worth(between(middle, worst[1], -reflection))
        if mirrored[0] > simplex[0][0]:
            further = worth(between(middle, worst[1], -reflection * expansion))
            simplex[-1] = max(mirrored, further, key=lambda corner: corner[0])
            continue
        if mirrored[0] > simplex[-2][0]:
            simplex[-1] = mirrored
            continue
        outside = mirrored[0] > worst[0]
        nearer = worth(between(middle, worst[1], -reflection * contraction if outside else contraction))
        if nearer[0] >= mirrored[0] if outside else nearer[0] > worst[0]:
            simplex[-1] = nearer
            continue
        simplex[1:] = [worth(between(simplex[0][1], point, shrinkage)) for _, point in simplex[1:]]
    value, point = max(simplex, key=lambda corner: corner[0])
    return ProxyPoints(dict(zip(names, point, strict=True)), value, tried)


def surface_peak(points: Float[Tensor, "M K"], values: Float[Tensor, " M"]) -> Peak:
    """The summit of the quadratic surface that fits values measured at points best (the paper's way: a grid of runs, then a fit).

    All K(K+1)/2 products, K coordinates and a constant, by least squares: rewards that go together move one another's proxy points,
    so they are found jointly. Points are the mean returns of runs that stopped somewhere, values what is truly wanted of them.

    Raises ValueError where there are fewer points than coefficients, or they do not tell all of these apart.

    >>> grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    >>> peak = surface_peak(grid, -((grid[:, 0] - 1.5) ** 2) - (grid[:, 1] - grid[:, 0]) ** 2)
    >>> [round(x, 6) for x in peak.point.tolist()], peak.inside
    ([1.5, 1.5], True)
    """
    m, k = points.shape
    x, y = points.double(), values.double()
    low, high = x.amin(0), x.amax(0)
    if m < (k + 1) * (k + 2) // 2 or not bool((high > low).all()):
        raise ValueError(f"surface_peak: {m} points, some alike, cannot tell the {(k + 1) * (k + 2) // 2} coefficients apart")
    centre, half = (low + high) / 2, (high - low) / 2
    z = (x - centre) / half
    row, column = torch.triu_indices(k, k)
    design = torch.cat([torch.ones_like(z[:, :1]), z, z[:, row] * z[:, column]], 1)
    if int(torch.linalg.matrix_rank(design)) < design.shape[1]:
        raise ValueError(f"surface_peak: these {m} points cannot tell the {design.shape[1]} coefficients apart")
    fit = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    fitted = design @ fit
    total = (y - y.mean()).square().sum()
    explained = float(1 - (y - fitted).square().sum() / total) if float(total) > 0 else None
    curvature = fit.new_zeros(k, k)
    curvature[row, column] = fit[1 + k :]
    curvature = curvature + curvature.T
    if float(torch.linalg.eigvalsh(curvature).max()) < 0:
        summit = -torch.linalg.solve(curvature, fit[1 : 1 + k])
        if bool((summit.abs() <= 1).all()):
            value = float(fit[0] + fit[1 : 1 + k] @ summit + summit @ curvature @ summit / 2)
            return Peak((centre + half * summit).to(points.dtype), value, explained, True)
    best = int(fitted.argmax())
    return Peak(points[best], float(fitted[best]), explained, False)


def _check(
    names: list[str],
    steps: Mapping[str, float],
    iterations: int,
    bounds: Mapping[str, tuple[float, float]] | None,
    reflection: float,
    expansion: float,
    contraction: float,
    shrinkage: float,
) -> None:
    if not names:
        raise ValueError("proxy_points: no reward to find a threshold of")
    if set(steps) != set(names) or not all(steps.values()):
        raise ValueError(f"proxy_points: spread must be other than 0 for each of {names}, got {dict(steps)}")
    if iterations < 0:
        raise ValueError(f"proxy_points: iterations must be at least 0, got {iterations}")
    for name, (low, high) in (bounds or {}).items():
        if name not in names or not low < high:
            raise ValueError(f"proxy_points: bounds of {name!r} must be (lowest, highest) of one of {names}, got ({low}, {high})")
    if not (reflection > 0 and expansion > max(1.0, reflection) and 0 < contraction < 1 and 0 < shrinkage < 1):
        raise ValueError(
            "proxy_points: needs reflection > 0, expansion > max(1, reflection), 0 < contraction < 1 and 0 < shrinkage < 1, "
            f"got {reflection}, {expansion}, {contraction} and {shrinkage}"
        )
