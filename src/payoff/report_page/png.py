"""The same charts as bitmaps, for slides and papers: drawn by matplotlib, in the light colours of the page."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from payoff.report_page.charts import Chart, Figure, Forest, Plot, extent, y_range
from payoff.report_page.wording import label, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, REWARD, TRUTH, PART = "#1a1a1a", "#8a8f98", "#b45309", "#1d5fa8", "#7a3e9d"
ARMS = ("#1d5fa8", "#c2410c", "#0f766e", "#a21caf", "#7c6a00", "#0891b2", "#4b5563", "#be123c")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2.5)), (0, (2, 1.6)), (0, (7, 2, 2, 2)))


def png(figure: Figure) -> bytes:
    """A figure as PNG; the same figure always gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    forests = [chart for chart in figure.charts if isinstance(chart, Forest)]
    charts = [chart for chart in figure.charts if isinstance(chart, Chart)]
    columns = 1 if figure.wide else min(4, len(charts))
    rows = math.ceil(len(figure.charts) / columns)
    stacked = max((len(chart.plots) for chart in charts), default=1)
    width = 8.5 if figure.wide else max(4.5, 3.2 * columns)
    foot = 0.5 + 0.3 * math.ceil(len(figure.legend) / 4)
    height = (
        0.2
        + foot
        + (0.42 * len(forests[0].rows) + 0.2 if forests else 3.6 if figure.wide and stacked == 1 else rows * stacked * 1.85)
    )
    canvas = Canvas(figsize=(width, height), dpi=144)
    FigureCanvasAgg(canvas)
    # Margins in inches, set once: an automatic layout draws everything several times over.
    left, right = (1.8, 2.0) if forests else (0.65, 0.2)
    canvas.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=foot / height,
        top=1 - (0.1 if figure.wide else 0.3) / height,
        wspace=0.3,
        hspace=0.22 if stacked > 1 and rows == 1 else 0.5,
    )
    grid = canvas.subplots(rows * stacked, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for forest in forests:
        _forest(grid[0][0], forest)
    for i, chart in enumerate(charts):
        for j, plot in enumerate(chart.plots):
            axes = grid[i // columns * stacked + j][i % columns]
            _plot(axes, plot, chart)
            if j == 0 and chart.title:
                axes.set_title(_text(label(chart.title, 40)), fontsize=10, loc="left", color=INK)
            if j == len(chart.plots) - 1:
                axes.set_xlabel(_text(chart.x_label), fontsize=8)
            else:
                axes.tick_params(labelbottom=False)
    if figure.legend:
        _legend(canvas, figure.legend)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _forest(axes: Axes, forest: Forest) -> None:
    axes.set_visible(True)
    for i, row in enumerate(reversed(forest.rows)):
        axes.plot(row.ticks, [i] * len(row.ticks), "|", color=FAINT, markersize=11, markeredgewidth=1)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [i, i], "-", color=INK, linewidth=1.8, solid_capstyle="butt")
        axes.plot([row.value], [i], "o", color=INK, markersize=6, markerfacecolor=INK if row.low is not None else "white")
        axes.annotate(_text(row.text), (1.01, i), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    if forest.delta:
        axes.axvspan(-forest.delta, forest.delta, color="#e8eaee", zorder=0)
        axes.axvline(0, color=FAINT, linewidth=1, linestyle="--", zorder=1)
    ends = [v for r in forest.rows for v in (r.value, r.low, r.high, *r.ticks) if v is not None]
    axes.set_xlim(*extent([*ends, 0.0, forest.delta, -forest.delta] if forest.delta else ends))
    axes.set_ylim(-0.7, len(forest.rows) - 0.3)
    axes.set_yticks(range(len(forest.rows)), [_text(label(row.label, 24)) for row in reversed(forest.rows)], fontsize=9)
    axes.set_xlabel(_text(forest.x_label), fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _plot(axes: Axes, plot: Plot, chart: Chart) -> None:
    axes.set_visible(True)
    if chart.root:
        axes.set_xscale("function", functions=(lambda v: abs(v) ** 0.5, lambda v: v**2))
    for band in plot.bands:
        x, low, high = zip(*band.points)
        axes.fill_between(x, low, high, color=_colour(band.colour), alpha=0.18, linewidth=0)
    faint = 0.25 if any(line.weight == "mean" and line.colour.startswith("arm-") for line in plot.lines) else 0.55
    for line in plot.lines:
        x, y = zip(*line.points)
        seed = line.weight == "seed"
        style: dict[str, Any] = {"linewidth": 0.8, "alpha": faint} if seed else {"linewidth": 1.8, "linestyle": _dash(line.colour)}
        axes.plot(x, y, color=_colour(line.colour), **style)
        if line.ends or len(x) == 1:
            axes.plot(x[-1:], y[-1:], "o", color=_colour(line.colour), markersize=3.5)
    for rule in plot.rules:
        if rule.kind == "bound":
            axes.axhline(rule.at, color=FAINT, linewidth=1, linestyle="--")
            continue
        if rule.low is not None and rule.high is not None:
            axes.axvspan(rule.low, rule.high, color=PART, alpha=0.14, linewidth=0)
        axes.axvline(rule.at, color=PART, linewidth=1.5)
    for at, value in plot.alarms:
        axes.plot([at], [value], "^", color=INK, markersize=6)
    axes.set_xlim(*chart.x_range)
    axes.set_ylim(*y_range(plot))
    if plot.label:
        axes.set_ylabel(_text(plot.label), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.locator_params(axis="y", nbins=5)
    if not chart.root:
        axes.locator_params(axis="x", nbins=5)
    axes.grid(True, axis="y", color="#e3e5e9", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(canvas: Any, entries: list[tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_colour(mark), linewidth=1.8, linestyle=_dash(mark), label=_text(label(words, 40)))
        for mark, words in entries
    ]
    canvas.legend(handles=handles, loc="lower center", ncols=min(4, len(handles)), fontsize=8, frameon=False)


def _colour(name: str) -> str:
    return ARMS[int(name[4:]) % 8] if name.startswith("arm-") else {"truth": TRUTH, "reward": REWARD, "parting": PART}[name]


def _dash(name: str) -> Any:
    i = int(name[4:]) if name.startswith("arm-") else 0
    return DASHES[(i + 2 * (i // 8)) % 4]


def _text(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would start mathematics."""
    return plain(text).replace("$", r"\$")
