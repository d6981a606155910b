"""The plot of a recipe as one SVG file that needs nothing else: every arm, and the differences that the claim is about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from payoff.intervals import mean_interval
from payoff.report_page.charts import Forest, ForestRow
from payoff.report_page.svg import forest_svg
from payoff.report_page.wording import attribute, decimals, fixed, short

WIDTH, HEAD = 760, 26
STYLE = """
svg{--ink:#1a1a1a;--soft:#5b6069;--page:#fff;font-family:system-ui,sans-serif}
@media(prefers-color-scheme:dark){svg{--ink:#e8e8e8;--soft:#a3a9b3;--page:#16181c}}
.page{fill:var(--page)}text{fill:var(--ink);font-size:12.5px}.axis,.num{fill:var(--soft)}.lab,.title{font-weight:600}
.mid{text-anchor:middle}.end{text-anchor:end}.frame,.tick{fill:none;stroke:var(--soft)}
.zero{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:4 3;fill:none}.delta{fill:var(--ink);opacity:.08}
.seedtick{stroke:var(--soft);stroke-width:1.2}.ci{stroke:var(--ink);stroke-width:2.2}
.dot{fill:var(--ink);stroke:var(--ink);stroke-width:1.6}.dot.open{fill:var(--page)}
"""


def plot(results: Mapping[str, Any]) -> str:
    """For every measure that an effect is about: the arms, then the differences from their baselines."""
    parts, top = [], 8
    says = []
    for title, forest in _forests(results):
        drawn = forest_svg(forest)
        height = int(re.search(r'viewBox="0 0 \d+ (\d+)"', drawn)[1])  # type: ignore[index]  # forest_svg always gives one
        inner = drawn[drawn.index(">") + 1 : -len("</svg>")]
        parts.append(f'<text class="title" x="12" y="{top + 16}">{attribute(title)}</text>')
        parts.append(f'<g transform="translate(0 {top + HEAD})">{inner}</g>')
        says.append(forest.says)
        top += HEAD + height + 14
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img" aria-label="{attribute(" ".join(says))}">'
    )
    body = "\n".join(parts)
    return f'{head}\n<style>{STYLE}</style>\n<rect class="page" width="{WIDTH}" height="{top}"/>\n{body}\n</svg>\n'


def _forests(results: Mapping[str, Any]) -> list[tuple[str, Forest]]:
    made = []
    for measure in dict.fromkeys(effect["measure"] for effect in results["effects"]):
        arms = []
        for arm, of in results["arms"].items():
            values = [run["numbers"][measure] for run in of["seeds"].values() if measure in run["numbers"]]
            if values:
                interval = mean_interval(values)
                arms.append(_row(arm, interval.value, interval.low, interval.high, values))
        made.append((f"{measure} of every arm", Forest(arms, measure, 0.0, _says(measure, arms))))
        effects = [effect for effect in results["effects"] if effect["measure"] == measure and effect["value"] is not None]
        for delta in dict.fromkeys(effect["delta"] for effect in effects):
            rows = [
                _row(
                    f"{effect['arm']} − {effect['baseline']}",
                    effect["value"],
                    effect["low"],
                    effect["high"],
                    list(effect["by_seed"].values()),
                    sign=True,
                )
                for effect in effects
                if effect["delta"] == delta
            ]
            made.append((f"differences in {measure}", Forest(rows, f"difference in {measure}", delta, _says("difference", rows))))
    return made


def _row(label: str, value: float, low: float | None, high: float | None, ticks: list[float], *, sign: bool = False) -> ForestRow:
    if low is None or high is None or low == high:
        text = short(value, sign=sign)
    else:
        n = decimals([high - low])
        text = f"{fixed(value, n, sign=sign)} [{fixed(low, n, sign=sign)}, {fixed(high, n, sign=sign)}]"
    return ForestRow(label, value, low, high, ticks, text)


def _says(what: str, rows: list[ForestRow]) -> str:
    return f"{what}: " + "; ".join(f"{row.label} {row.text}" for row in rows) + "."
