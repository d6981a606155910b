"""Charts as data: what a figure holds, apart from how it is drawn. `svg` and `png` draw the same objects.

One grammar everywhere: dot = estimate, line = 95 % interval, tick = one seed, thin line = one seed, thick line = mean over seeds,
band = 95 % interval of the mean, dashed line = zero or a bound, open dot = fewer than three seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Points = list[tuple[float, float]]
MOST_POINTS = 240


@dataclass(frozen=True)
class Line:
    """A connected curve; `colour` is truth, reward, or the number of an arm; a seed is thin, a mean is thick."""

    points: Points
    colour: str
    weight: Literal["seed", "mean"]
    ends: bool = False


@dataclass(frozen=True)
class Band:
    """(x, low, high) around a mean."""

    points: list[tuple[float, float, float]]
    colour: str


@dataclass(frozen=True)
class Rule:
    """A dashed line at a bound (across) or a solid one where reward and truth part (upright), with its interval."""

    at: float
    kind: Literal["bound", "parting"]
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Plot:
    """One pair of axes of a chart."""

    label: str
    lines: list[Line]
    bands: list[Band] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    alarms: Points = field(default_factory=list)
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Chart:
    """Plots stacked over one x axis. `says` is the sentence that stands for the picture."""

    title: str
    x_label: str
    x_range: tuple[float, float]
    plots: list[Plot]
    says: str
    root: bool = False  # square-root x axis


@dataclass(frozen=True)
class ForestRow:
    """One arm of a forest plot."""

    label: str
    value: float
    low: float | None
    high: float | None
    ticks: list[float]
    text: str


@dataclass(frozen=True)
class Forest:
    """Differences from a baseline: a row per arm, zero, and the band within which a difference does not matter."""

    rows: list[ForestRow]
    x_label: str
    delta: float
    says: str


@dataclass(frozen=True)
class Figure:
    """Charts with one caption, a legend of (mark, words), and the numbers behind them; `wide` is one chart across the page."""

    name: str
    caption: str
    charts: list[Chart] | list[Forest]
    legend: list[tuple[str, str]]
    header: list[str]
    table: list[list[str]]
    wide: bool = False


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high, roughly so many.

    >>> ticks(0.0, 1.0), ticks(0.0, 1600.0, 4)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 500.0, 1000.0, 1500.0])
    """
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    size = 10.0 ** math.floor(math.log10(span / about))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= 0.999 * span / about)
    first = math.ceil(low / step - 1e-9)
    places = max(0, 2 - math.floor(math.log10(step)))
    return [round(i * step, places) + 0.0 for i in range(first, math.floor(high / step + 1e-9) + 1)]


def extent(values: Iterable[float], *, zero: bool = False, pad: float = 0.06) -> tuple[float, float]:
    """The range of values with some air, never empty; from 0 on where `zero`, and no value is negative.

    >>> extent([1.0, 1.0]), extent([0.0, 10.0], zero=True)
    ((0.5, 1.5), (0.0, 10.6))
    """
    found = list(values)
    if not found:
        return 0.0, 1.0
    low, high = min(found), max(found)
    if zero and low >= 0:
        return 0.0, high + pad * high if high > 0 else 1.0
    if low == high:
        half = abs(low) / 2 or 0.5
        return low - half, high + half
    return low - pad * (high - low), high + pad * (high - low)


def thin(points: Points) -> Points:
    """A long curve by the least and greatest point of each of equal stretches: shorter, not smoother.

    >>> len(thin([(float(x), x % 7.0) for x in range(10_000)])) <= 2 * MOST_POINTS
    True
    """
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(len(points) / (MOST_POINTS // 2))
    kept = []
    for i in range(0, len(points), size):
        part = points[i : i + size]
        ends = {min(range(len(part)), key=lambda j: part[j][1]), max(range(len(part)), key=lambda j: part[j][1])}
        kept += [part[j] for j in sorted(ends)]
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept if kept[0] == points[0] else [points[0], *kept]


def y_range(plot: Plot) -> tuple[float, float]:
    """The given range of a plot, or one that holds its lines and bands."""
    if plot.y_range is not None:
        return plot.y_range
    values = [y for line in plot.lines for _, y in line.points]
    return extent([*values, *(y for band in plot.bands for point in band.points for y in point[1:])])


def tick_text(value: float, all_ticks: Sequence[float]) -> str:
    """An axis number with the places its neighbours need.

    >>> tick_text(0.5, [0.0, 0.5, 1.0]), tick_text(1500.0, [0.0, 1500.0]), tick_text(20000.0, [0.0, 20000.0])
    ('0.5', '1500', '20k')
    """
    largest = max(abs(t) for t in all_ticks)
    scale, suffix = (1e6, "M") if largest >= 2e6 else (1e3, "k") if largest >= 1e4 else (1.0, "")
    if 0 < largest < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-") if value else "0"
    places = next((n for n in range(4) if all(abs(round(t / scale, n) - t / scale) < 1e-9 for t in all_ticks)), 4)
    text = f"{value / scale:.{places}f}"
    return (text.replace("-", "−") + suffix) if float(text) else "0"
