"""Charts as inline SVG: classes instead of colours, so that the page's style sheet and its themes apply; no style attributes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from payoff.report_page.charts import Chart, Forest, Line, Plot, extent, tick_text, ticks, y_range
from payoff.report_page.wording import attribute, label, short

Real = int | float
LEFT, RIGHT = 44, 12


def chart_svg(chart: Chart, *, width: int = 300, height: int = 112) -> str:
    """A chart with its plots stacked over one x axis, each `height` high."""
    head, foot, gap = (24 if any(plot.label for plot in chart.plots) else 10), 34, 6
    x = _scale(chart.x_range, (LEFT, width - RIGHT), root=chart.root)
    total = len(chart.plots) * (head + height) + (len(chart.plots) - 1) * gap + foot
    parts = []
    for i, plot in enumerate(chart.plots):
        top = i * (head + height + gap) + head
        parts += _plot(plot, x, chart.x_range, (LEFT, width - RIGHT), (top, top + height))
    bottom = total - foot
    marks = ticks(*chart.x_range, 4) if not chart.root else _root_ticks(chart.x_range[1], width)
    for at in marks:
        parts.append(f'<path class="tick" d="M{_n(x(at))} {bottom}v4"/>')
        text = short(at) if chart.root else tick_text(at, marks)
        parts.append(f'<text class="num mid" x="{_n(x(at))}" y="{bottom + 15}">{text}</text>')
    parts.append(f'<text class="axis mid" x="{(LEFT + width - RIGHT) // 2}" y="{bottom + 30}">{attribute(chart.x_label)}</text>')
    return _svg(width, total, chart.says, parts)


def forest_svg(forest: Forest, *, narrow: bool = False) -> str:
    """A forest plot; on narrow screens each arm's name stands above its line."""
    width, row, labels, words = (340, 50, 0, 0) if narrow else (760, 34, 170, 165)
    left, right, top = labels + 12, width - words - 12, 8
    ends = [v for r in forest.rows for v in (r.value, r.low, r.high, *r.ticks) if v is not None]
    low, high = extent([*ends, 0.0, forest.delta, -forest.delta] if forest.delta else ends)
    x = _scale((low, high), (left, right))
    bottom = top + row * len(forest.rows) + 4
    parts = []
    if forest.delta:
        parts.append(_rect("delta", x(-forest.delta), top, x(forest.delta) - x(-forest.delta), bottom - top))
        parts.append(f'<path class="zero" d="M{_n(x(0))} {top}V{bottom}"/>')
    for i, r in enumerate(forest.rows):
        y = top + row * i + (row - 13 if narrow else row // 2)
        if narrow:
            parts.append(f'<text class="lab halo" x="4" y="{y - 16}">{attribute(label(r.label, 22))}</text>')
            parts.append(f'<text class="num end halo" x="{width - 4}" y="{y - 16}">{attribute(r.text)}</text>')
        else:
            parts.append(f'<text class="lab end" x="{labels}" y="{y + 4}">{attribute(label(r.label, 22))}</text>')
            parts.append(f'<text class="num" x="{width - words}" y="{y + 4}">{attribute(r.text)}</text>')
        parts += [f'<path class="seedtick" d="M{_n(x(t))} {y - 8}v16"/>' for t in r.ticks]
        if r.low is not None and r.high is not None:
            parts.append(f'<path class="ci" d="M{_n(x(r.low))} {y}H{_n(x(r.high))}"/>')
        kind = "dot" if r.low is not None else "dot open"
        parts.append(f'<circle class="{kind}" cx="{_n(x(r.value))}" cy="{y}" r="4.5"/>')
    marks = ticks(low, high, 4 if narrow else 6)
    parts.append(f'<path class="frame" d="M{left} {bottom}H{right}"/>')
    for at in marks:
        parts.append(f'<path class="tick" d="M{_n(x(at))} {bottom}v4"/>')
        sign = "+" if forest.delta and at > 0 else ""
        parts.append(f'<text class="num mid" x="{_n(x(at))}" y="{bottom + 16}">{sign}{tick_text(at, marks)}</text>')
    parts.append(
        f'<text class="axis mid" x="{(left + right) // 2}" y="{bottom + 32}">{attribute(label(forest.x_label, 48))}</text>'
    )
    return _svg(width, bottom + 38, forest.says, parts)


def key_svg(mark: str) -> str:
    """The sample of a line in a legend."""
    if mark == "parting":
        shape = '<rect class="part" x="8" y="0" width="12" height="12"/><path class="partline" d="M14 0V12"/>'
    else:
        shape = f'<path class="line mean {mark_class(mark)}" d="M0 6H28"/>'
    return f'<svg class="key" viewBox="0 0 28 12" width="28" height="12" aria-hidden="true">{shape}</svg>'


def mark_class(colour: str) -> str:
    """The classes of a colour: arms beyond the eighth repeat the colours with other dashes.

    >>> mark_class("truth"), mark_class("arm-1"), mark_class("arm-9")
    ('truth', 'a1 d1', 'a1 d3')
    """
    if not colour.startswith("arm-"):
        return colour
    i = int(colour[4:])
    return f"a{i % 8} d{(i + 2 * (i // 8)) % 4}"


def _plot(
    plot: Plot, x: Callable[[Real], Real], x_range: tuple[Real, Real], across: tuple[int, int], down: tuple[int, int]
) -> list[str]:
    (left, right), (top, bottom) = across, down
    limits = y_range(plot)
    y = _scale(limits, (bottom, top))
    marks = ticks(*limits, 4)
    parts = [f'<text class="axis" x="2" y="{top - 11}">{attribute(plot.label)}</text>'] if plot.label else []
    for at in marks:
        parts.append(f'<path class="grid" d="M{left} {_n(y(at))}H{right}"/>')
        parts.append(f'<text class="num end" x="{left - 4}" y="{_n(y(at) + 3.5)}">{tick_text(at, marks)}</text>')
    for rule in plot.rules:
        if rule.kind == "bound":
            parts.append(f'<path class="bound" d="M{left} {_n(y(rule.at))}H{right}"/>')
        elif rule.low is not None and rule.high is not None:
            parts.append(_rect("part", x(rule.low), top, max(1.0, x(rule.high) - x(rule.low)), bottom - top))
    for band in plot.bands:
        upper = [(x(at), _clamp(y(high), top, bottom)) for at, _, high in band.points]
        lower = [(x(at), _clamp(y(low), top, bottom)) for at, low, _ in reversed(band.points)]
        parts.append(f'<path class="band {mark_class(band.colour)}" d="{_path([*upper, *lower])}Z"/>')
    for line in sorted(plot.lines, key=lambda line: line.weight == "mean"):
        parts.append(_line(line, x, y))
    for rule in plot.rules:
        if rule.kind == "parting":
            parts.append(f'<path class="partline" d="M{_n(x(rule.at))} {top}V{bottom}"/>')
    for at, value in plot.alarms:
        cx, cy = x(at), max(top + 8.0, y(value) - 4)
        parts.append(f'<path class="alarm" d="M{_n(cx)} {_n(cy - 7)}l5 8h-10Z"/>')
    parts.append(f'<path class="frame" d="M{left} {top}V{bottom}H{right}"/>')
    return parts


def _line(line: Line, x: Callable[[Real], Real], y: Callable[[Real], Real]) -> str:
    points = [(x(at), y(value)) for at, value in line.points]
    colour = mark_class(line.colour)
    text = f'<path class="line {line.weight} {colour}" d="{_path(points)}"/>' if len(points) > 1 else ""
    if line.ends or len(points) == 1:
        text += f'<circle class="enddot {colour}" cx="{_n(points[-1][0])}" cy="{_n(points[-1][1])}" r="2.6"/>'
    return text


def _scale(domain: tuple[Real, Real], pixels: tuple[Real, Real], *, root: bool = False) -> Callable[[Real], Real]:
    bend = (lambda v: math.sqrt(max(v, 0.0))) if root else (lambda v: v)
    low, high = bend(domain[0]), bend(domain[1])
    return lambda v: pixels[0] + (bend(v) - low) / (high - low or 1.0) * (pixels[1] - pixels[0])


def _root_ticks(high: Real, width: int) -> list[float]:
    """Ticks of a square-root axis: of 0, 1, 2, 5, 10 ... those that have room."""
    size = 10.0 ** math.floor(math.log10(high))
    candidates = [0.0, *(m * size / d for d in (100, 10, 1) for m in (1, 2, 5)), *(m * size * 10 for m in (1,))]
    room, kept = 46 / (width - LEFT - RIGHT), [0.0]
    for at in candidates[1:]:
        if at <= high and math.sqrt(at / high) - math.sqrt(kept[-1] / high) >= room:
            kept.append(at)
    return kept


def _path(points: list[tuple[Real, Real]]) -> str:
    """A path through the points in whole tenths, relative after the first: half the characters of an absolute one."""
    tenths = [(round(10 * px), round(10 * py)) for px, py in points]
    steps = [(bx - ax, by - ay) for (ax, ay), (bx, by) in pairwise(tenths)]
    rest = " ".join(f"{dx / 10:g} {dy / 10:g}" for dx, dy in steps).replace(" -", "-")
    return f"M{tenths[0][0] / 10:g} {tenths[0][1] / 10:g}l{rest}"


def _n(value: Real) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _clamp(value: Real, low: Real, high: Real) -> Real:
    return min(max(value, low), high)


def _rect(kind: str, x: Real, y: Real, width: Real, height: Real) -> str:
    return f'<rect class="{kind}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"/>'


def _svg(width: int, height: int, says: str, parts: list[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{attribute(says)}">{"".join(parts)}</svg>'
