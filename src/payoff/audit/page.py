"""The page of an audit: one file that opens without a network, the verdict first, then every check with its worst examples."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any

from payoff import __version__
from payoff.audit.checks import CHECKS
from payoff.audit.effects import effect_told, remedies_of
from payoff.audit.measurement import Measurement
from payoff.audit.report import SIGNS, Audit, number_told
from payoff.catalogue import Method, index
from payoff.files import replacing
from payoff.report_page.charts import Band, Chart, Line, Plot, extent
from payoff.report_page.page import policy_of, resource
from payoff.report_page.svg import chart_svg
from payoff.report_page.wording import attribute, markup, plural, prose

SHOWN = 10  # examples of a measure on the page
_FIRST = ("prompt", "response", "reference", "unchanged")  # texts of an example; the rest are facts
_HOW = """
Every interval is of 95 %, and counts prompts, since answers to one prompt are not independent. A measure fails where the whole
interval lies beyond its bound, holds where none of it does, and is undecided in between or where it rests on too few. Severity is
how far beyond the bound the near end of the interval lies, on the way to the worst a measure can say; the audit's verdict is its
worst measure, never a mean. What got no verdict from the reward is counted and in no other number.
"""
_EFFECTS = """
By what is expected of each, over all findings that ask for it. The remedy's function was applied to what the reward gave these very
responses, and the measure that failed was taken again: what it was, what it would be, and the 95 % interval of the second. Sums
count how grave a finding is and which share of it would be gone. A policy that is trained will write other responses; so this says
which remedy to try first, not how training ends. Those that these rows cannot tell anything about stand last, with the reason.
"""
_CURVES = {  # the measures that are drawn: (x, its label, [(series, words, colour)], label of y)
    "over-optimisation": (
        "kl",
        "KL of best-of-n from the policy, nats",
        [("proxy", "reward", "reward"), ("gold", "truth", "truth")],
    ),
    "over-optimisation-tilted": (
        "kl",
        "KL of the tilted policy, nats",
        [("proxy", "reward", "reward"), ("gold", "truth", "truth")],
    ),
    "correlation-decay": ("kl", "KL, nats", [("correlation", "correlation of reward and truth", "arm-0")]),
    "calibration-error": ("promised", "probability the reward states", [("right", "share that is right", "truth")]),
    "bias-length": ("feature", "length of the response", [("reward", "mean reward", "reward")]),
    "gradient-signal": ("size", "rollouts of a start", [("signal", "signal to noise of an update's gradient", "arm-0")]),
    "flat-groups": ("size", "rollouts of a start", [("flat", "share of groups without spread", "arm-0")]),
}


def write_page(path: Path, found: Audit, *, command: str = "", settings: Mapping[str, Any] | None = None) -> Path:
    """Write the page whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(page(found, command=command, settings=settings).encode("utf-8"))
    return path


def page(found: Audit, *, command: str = "", settings: Mapping[str, Any] | None = None) -> str:
    """The whole document."""
    sections = [("verdict", "Verdict", _verdict(found))]
    change = _what_to_change(found)
    sections += [("what-to-change", "What to change", change)] if change else []
    sections.append(("measures", "All measures", _all_measures(found)))
    for name, check in CHECKS.items():
        some = [m for m in found.measurements if found.part_of[m.name] == name]
        if some:
            sections.append((name, name.replace("-", " ").capitalize(), f"<p>{markup(check.question)}</p>{_measures(some)}"))
    sections.append(("not-tried", "Not tried", _not_tried(found)))
    sections.append(("repeat", "Get this again", _repeat(command, settings or {})))
    style, script = resource("page.css") + _STYLE, resource("page.js")
    return Template(resource("page.html")).substitute(
        policy=policy_of(style, script),
        title=attribute(f"{found.reward}: {found.verdict}"),
        style=style,
        script=script,
        kicker=markup(f"payoff audit · {found.reward}"),
        headline=prose(headline(found)),
        made=f"<span>payoff {__version__}</span><span>{datetime.now(UTC):%Y-%m-%d %H:%M} UTC</span>"
        f"<span>{plural(found.rows, 'response')} to {plural(found.prompts, 'prompt')}</span>"
        f"<span>{found.invalid} without verdict</span><span>{plural(found.asked, 'reward')} asked for</span>",
        contents="".join(f'<a href="#{name}">{markup(title)}</a>' for name, title, _ in sections),
        sections="\n".join(f'<section id="{name}"><h2>{markup(title)}</h2>{body}</section>' for name, title, body in sections),
        island="[]",
    )


def headline(found: Audit) -> str:
    """One sentence: the verdict, its worst finding with its number, and the scope.

    >>> headline(Audit("mine", [], {}, [], 10, 5, 0, 10, {}))
    'inconclusive: nothing could be measured'
    """
    scope = f"within {plural(len(found.measurements), 'measure')}"
    if found.findings:
        worst = found.findings[0]
        return f"fails: {worst.question} {number_told(worst).partition(' (n =')[0]}"
    if found.verdict == "holds":
        return f"holds {scope}"
    undecided = [m.name for m in found.measurements if m.result == "inconclusive"]
    return (
        f"inconclusive {scope}: {plural(len(undecided), 'undecided one')}"
        if undecided
        else "inconclusive: nothing could be measured"
    )


def _verdict(found: Audit) -> str:
    said = "".join(
        f'<li><span class="word w-worse">fails</span><span>{prose(m.question)} {_link(m)}: '
        f"{prose(number_told(m))}. <b>Do:</b> {prose(m.advice)}{_remedies(m)}</span></li>"
        for m in found.findings[:8]
    )
    more = len(found.findings) - 8
    rest = f'<p class="note">{plural(more, "more finding")} below.</p>' if more > 0 else ""
    if not found.findings:
        said = f'<li><span class="word">{markup(found.verdict)}</span><span>No measure lies beyond its bound.</span></li>'
    return f'<ul class="said">{said}</ul>{rest}{_note(_HOW)}'


def _all_measures(found: Audit) -> str:
    """What fails or is undecided in one table, the rest folded."""
    loud = [m for m in found.measurements if m.result in ("fails", "inconclusive")]
    kinds = {
        "that holds": [m for m in found.measurements if m.result == "holds"],
        "that is told only": [m for m in found.measurements if m.result == "not applicable" and m.estimate],
    }
    folds = "".join(
        _fold(f"{plural(len(some), 'measure')} {what if len(some) == 1 else _MANY[what]}", _table(some))
        for what, some in kinds.items()
        if some
    )
    return (_table(loud) if loud else "") + folds


_MANY = {"that holds": "that hold", "that is told only": "that are told only"}


def _table(some: Sequence[Measurement]) -> str:
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("measure", "question", "result", "value and 95 % interval", "", "what to do")
    )
    body = "".join(
        f'<tr><th scope="row">{_link(m)}</th><td data-label="question">{markup(m.question)}</td>'
        f'<td data-label="result">{_word(m)}</td>'
        f'<td data-label="value">{markup(number_told(m)) if m.estimate else markup(m.note)}</td>'
        f"<td>{_bar(m)}</td>{_advice(m)}</tr>"
        for m in some
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _advice(m: Measurement) -> str:
    return f'<td data-label="do">{markup(m.advice)}</td>' if m.advice and m.result in ("fails", "inconclusive") else "<td></td>"


def _measures(some: Sequence[Measurement]) -> str:
    """The measures of one check: what fails or is undecided open, with its examples; the rest in one table."""
    loud = [m for m in some if m.result in ("fails", "inconclusive") or (m.name in _CURVES and m.estimate)]
    parts = [_one(m) for m in loud]
    calm = [m for m in some if m not in loud]
    return "".join(parts) + (_fold(f"{plural(len(calm), 'other measure')}", _anchored(calm)) if calm else "")


def _anchored(some: Sequence[Measurement]) -> str:
    return "".join(f'<span id="m-{attribute(m.name)}"></span>' for m in some) + _table(some)


def _one(m: Measurement) -> str:
    facts = [number_told(m) + "." if m.estimate else m.note]
    if m.estimate and m.note and m.note != "-":
        facts.append(m.note)
    do = f"<p><b>Do:</b> {prose(m.advice)}{_remedies(m)}</p>" if m.advice and m.result in ("fails", "inconclusive") else ""
    shown = "".join(_example(example) for example in m.examples[:SHOWN])
    examples = _fold(plural(len(m.examples[:SHOWN]), "example") + ", worst first", shown) if shown else ""
    if not shown and m.result == "fails":
        examples = _note("This number has no single response to show: it is of the rows as a whole.")
    return (
        f'<div class="measure" id="m-{attribute(m.name)}"><h3>{_word(m)} {markup(m.name)}</h3><p>{prose(m.question)}</p>'
        f"<p>{prose(' '.join(facts))}</p>{_bar(m, wide=True)}{_curve(m)}{do}{examples}</div>"
    )


def _example(example: Mapping[str, Any]) -> str:
    """One example: its numbers, then its texts as text."""
    facts = "".join(
        f"<div><dt>{markup(name)}</dt><dd>{markup(_plain(value))}</dd></div>"
        for name, value in example.items()
        if name not in _FIRST
    )
    texts = "".join(
        f'<p class="ref">{markup(name)}</p><pre class="answer">{markup(_plain(example[name]))}</pre>'
        for name in _FIRST
        if example.get(name) not in (None, "")
    )
    return f'<div class="ex"><dl class="facts">{facts}</dl>{texts}</div>'


def _curve(m: Measurement) -> str:
    asked = _CURVES.get(m.name)
    if asked is None or len(m.series.get(asked[0], ())) < 2:
        return ""
    across, x_label, curves = asked
    x = list(m.series[across])
    plots, words = [], []
    for name, told, colour in curves:
        line = [(at, v) for at, v in zip(x, m.series[name]) if math.isfinite(v)]
        low, high = m.series.get(f"{name}_low", m.series.get("low")), m.series.get(f"{name}_high", m.series.get("high"))
        bands = [Band([(at, a, b) for at, a, b in zip(x, low, high) if math.isfinite(a + b)], colour)] if low and high else []
        ends = [v for _, v in line] + [v for band in bands for _, a, b in band.points for v in (a, b)]
        plots.append(Plot(told, [Line(line, colour, "mean")], bands, y_range=extent(ends)))
        words.append(told)
    chart = Chart("", x_label, extent(x, pad=0.0), plots, f"{' and '.join(words)} against {x_label}")
    caption = (
        "Line: mean over prompts; band: its 95 % interval." if any(plot.bands for plot in plots) else "Line: mean over prompts."
    )
    drawing = f'<div class="only-audit">{chart_svg(chart, width=520, height=110)}</div>'
    return f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>"


def _bar(m: Measurement, *, wide: bool = False) -> str:
    """The interval on a line from the good side of the bound to the worst, with the bound dashed."""
    e = m.estimate
    if e is None or m.bound is None:
        return ""
    ends = [v for v in (e.value, e.low, e.high, m.bound, m.worst) if v is not None]
    low, high = min(ends), max(ends)
    room = (high - low) or 1.0
    width = 420 if wide else 150
    at = lambda v: f"{6 + (v - low) / room * (width - 12):.1f}"
    line = "" if e.low is None or e.high is None else f'<path class="ci" d="M{at(e.low)} 11H{at(e.high)}"/>'
    says = f"{e.value:.3g}, bound {m.bound:g}"
    return (
        f'<svg class="gauge{" wide" if wide else ""}" viewBox="0 0 {width} 22" role="img" aria-label="{attribute(says)}">'
        f'<path class="frame" d="M6 11H{width - 6}"/><path class="bound" d="M{at(m.bound)} 2V20"/>{line}'
        f'<circle class="dot" cx="{at(e.value)}" cy="11" r="4"/></svg>'
    )


def _not_tried(found: Audit) -> str:
    skipped = "".join(f"<li><b>{markup(name)}</b>: {markup(CHECKS[name].question)}</li>" for name in found.skipped)
    lacking = "".join(f"<li><b>{markup(m.name)}</b>: {markup(m.note)}</li>" for m in found.measurements if m.estimate is None)
    always = (
        "<li>Attacks that nobody has thought of, and searches longer than this one's budget.</li>"
        "<li>Prompts and responses unlike those of these rows: a policy that is trained will leave them.</li>"
    )
    return f"<ul>{skipped}{lacking}{always}</ul>"


def _repeat(command: str, settings: Mapping[str, Any]) -> str:
    told = f'<p class="cmd"><code>{markup(command)}</code></p>' if command else ""
    return told + _fold(
        "Settings", f'<pre class="code">{markup(json.dumps(settings, indent=2, default=str, ensure_ascii=False))}</pre>'
    )


def _remedies(m: Measurement) -> str:
    """The remedies of a measure: what those that could be tried are expected to make of it, then the others."""
    name = lambda remedy: f"<code>{markup(remedy)}</code>"
    link = lambda remedy: f'<a href="#r-{attribute(remedy)}">{name(remedy)}</a>' if m.result == "fails" else name(remedy)
    tried = {e["remedy"]: effect_told(e) for e in m.effects if "gain" in e}
    effects = "; ".join(f"{link(remedy)} {markup(told)}" for remedy, told in tried.items())
    others = ", ".join(link(remedy) for remedy in m.remedies if remedy not in tried)
    said = f" <b>Estimated effect:</b> {effects}." if effects else ""
    return said + (f" {'Without an estimate' if effects else 'By'}: {others}." if others else "")


def _what_to_change(found: Audit) -> str:
    """Every remedy of the findings, what it does, where it is and what it is expected to change, the largest effect first."""
    methods: dict[str, list[Method]] = {}
    for (_, name), method in index().items():
        methods.setdefault(name, []).append(method)
    rows = ""
    for one in remedies_of(found.findings):
        name, of = one["remedy"], methods.get(one["remedy"], [])
        places = "".join(f"<code>{markup(method.place)}</code> " for method in of)
        rows += (
            f'<tr><th scope="row" id="r-{attribute(name)}">{markup(name)}</th>'
            f'<td data-label="what it does"><div>{prose(" ".join(method.summary for method in of))} {places}</div></td>'
            f'<td data-label="estimated effect"><div>{_effects(one["effects"])}</div></td></tr>'
        )
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("remedy", "what it does, and the function", "estimated effect"))
    return f'{_note(_EFFECTS)}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _effects(effects: Sequence[Mapping[str, Any]], shown: int = 4) -> str:
    """What a remedy is expected to do to each finding that asks for it, with a link to the evidence."""
    best = sorted(effects, key=lambda e: -e.get("gain", -2.0))
    link = lambda e: f'<a href="#m-{attribute(e["measure"])}">{markup(e["measure"])}</a>'
    lines = [f"{link(e)} {markup(effect_told(e))}" for e in best if "gain" in e]
    reasons: dict[str, list[str]] = {}
    for e in best:
        if "gain" not in e:
            reasons.setdefault(effect_told(e), []).append(link(e))
    lines += [f"{', '.join(links)}: {markup(why)}" for why, links in reasons.items()]
    items = [f"<li>{line}</li>" for line in lines]
    more = _fold(f"{len(items) - shown} more", f"<ul>{''.join(items[shown:])}</ul>") if len(items) > shown else ""
    settings = dict.fromkeys(e["setting"] for e in best if e.get("setting"))
    told = "".join(f'<p class="note">Tried with: {markup(setting)}.</p>' for setting in settings)
    return f"<ul>{''.join(items[:shown])}</ul>{more}{told}"


def _link(m: Measurement) -> str:
    return f'<a href="#m-{attribute(m.name)}">{markup(m.name)}</a>'


def _word(m: Measurement) -> str:
    """The result as a word, its sign and its colour."""
    tone = {"fails": "w-worse", "holds": "w-better", "inconclusive": "w-signal"}.get(m.result, "")
    said = "told only" if m.result == "not applicable" and m.estimate else m.result
    return f'<span class="word {tone}">{SIGNS[m.result]} {markup(said)}</span>'


def _fold(title: str, body: str) -> str:
    return f'<details class="fold"><summary>{markup(title)}</summary>{body}</details>'


def _note(text: str) -> str:
    return f'<p class="note">{prose(" ".join(text.split()))}</p>'


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


_STYLE = """
.measure{border-top:1px solid var(--rule);padding:.4em 0 1em}
.gauge{width:150px;min-width:110px}.gauge.wide{width:100%;max-width:420px}
.only-audit{max-width:560px}
.ex{padding:.4em 14px .8em}
.wide{overflow-x:auto}.word{white-space:nowrap}
.wide tbody th,.said code{overflow-wrap:normal}.said code{white-space:nowrap}
@media (max-width:680px){.wide td:empty,.wide td:not([data-label]):empty{display:none}.wide tbody th{overflow-wrap:anywhere}}
"""
