"""The page: its sections in order, its examples within a size, and a policy that lets only its own style and script run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib import resources
from string import Template

from payoff.report_page import tables
from payoff.report_page.charts import Figure, Forest
from payoff.report_page.examples import Example, Examples, choose
from payoff.report_page.figures import figures
from payoff.report_page.findings import Row
from payoff.report_page.pictures import gallery
from payoff.report_page.runs import PHASES, Run, read
from payoff.report_page.sentences import cells, headline, scope, sentences
from payoff.report_page.svg import chart_svg, forest_svg, key_svg
from payoff.report_page.tokens import Record, channels, example_html, island, limit, prompt_html, record
from payoff.report_page.wording import attribute, markup, plural, prose, whole

ROOM = 3_000_000  # characters for examples; past it the random ones go first, then the ends of long ones
TITLES = {"reward-truth": "Reward and truth", "kl": "Truth against KL", "learning": "Is it learning", "cost": "Cost"}
QUESTIONS = {
    "reward-truth": "Does the reward an arm optimises still mean what it stands for?",
    "kl": "How far from the start policy does optimising still help?",
    "learning": "Is there something to learn from, and does the policy keep its shape?",
    "cost": "What does an arm's truth cost in time?",
}
COLUMNS = {
    "own reward": "mean of the first and of the last twentieth of the updates.",
    "reward-truth r": "correlation of the two over the evaluations of a seed, mean over seeds.",
    "credit": "cosine of the weights of steps with what continuations say that these steps were worth, in the first and the last "
    "rollouts that were kept, mean over seeds.",
    "invalid": "share of rollouts without verdict, which enter no number.",
    "parted": "update from which own reward rises while truth falls, with its 95 % interval where it has a width, and in how many "
    "of the seeds.",
}
TINTS = """
Each token is tinted by its credit, the final weight of its log-probability: blue with a bar above where it is made likelier, orange
with a bar beneath where it is made less likely, untinted at exactly 0. Grey italics are not the policy's own tokens, hatching is no
verdict. One scale serves all examples; what lies beyond it is underlined twice. Select a token for its numbers.
"""


def page(run: Run, rows: Sequence[Row]) -> tuple[str, list[Figure]]:
    """The whole document, and the figures in it."""
    drawn = figures(run, rows)
    chosen, records = _fitting(run)
    sections = [("verdict", "Verdict", _verdict(run, rows, drawn))]
    sections += [(f.name, TITLES[f.name], f"<p>{QUESTIONS[f.name]}</p>{_figure(f)}") for f in drawn if f.name in TITLES]
    if pictures := gallery(run):
        sections.append(("pictures", "What it does", pictures))
    sections.append(("examples", "Examples", _examples(chosen, records, list(run.arms))))
    sections.append(("settings", "Settings that differ", tables.descriptions(run) + tables.settings(run)))
    sections.append(("not-done", "Not done", tables.not_done(run, rows, chosen)))
    sections.append(("repeat", "Get this again", tables.repeat(run)))
    style, script = resource("page.css"), resource("page.js")
    command = str(run.raw.get("command") or "").split()[:2]
    document = Template(resource("page.html")).substitute(
        policy=policy_of(style, script),
        title=attribute(f"{headline(run, rows)} | {run.title}"),
        style=style,
        script=script,
        kicker=markup(" ".join([*command, "·", run.title] if command else [run.title])),
        headline=prose(headline(run, rows)),
        made=tables.made_by(run),
        contents="".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections),
        sections="\n".join(f'<section id="{name}"><h2>{title}</h2>{body}</section>' for name, title, body in sections),
        island=island(records),
    )
    return document, drawn


def _verdict(run: Run, rows: Sequence[Row], drawn: Sequence[Figure]) -> str:
    said = "".join(
        f'<li><span class="word w-{word.replace(" ", "-")}">{word}</span><span>{prose(text)}</span></li>'
        for word, text in sentences(run, rows)
    )
    forest = "".join(_figure(figure) for figure in drawn if figure.name == "difference")
    table, there = tables.summary(run, rows), cells(run, rows)
    columns = " ".join(f"{name}: {told}" for name, told in COLUMNS.items() if name in there)
    return f'<ul class="said">{said}</ul>{forest}{_note(scope(run, rows) + ".")}{table}{_note(columns)}'


def _figure(figure: Figure) -> str:
    drawings = []
    for chart in figure.charts:
        if isinstance(chart, Forest):
            drawings.append(_both(forest_svg(chart), forest_svg(chart, narrow=True)))
        elif figure.wide:
            tall, short = (300, 230) if len(chart.plots) == 1 else (170, 120)
            drawings.append(_both(chart_svg(chart, width=760, height=tall), chart_svg(chart, width=340, height=short)))
        else:
            title = f"<h3>{markup(chart.title)}</h3>" if chart.title else ""
            drawings.append(f'<div class="chart">{title}{chart_svg(chart)}</div>')
    body = "".join(drawings) if figure.wide else f'<div class="charts">{"".join(drawings)}</div>'
    keys = "".join(f"<li>{key_svg(mark)}{markup(words)}</li>" for mark, words in figure.legend)
    legend = f'<ul class="legend">{keys}</ul>' if keys else ""
    numbers = f'<div class="scroll">{tables.table(figure.header, figure.table)}</div>'
    data = tables.fold("Data of this figure", numbers) if figure.table else ""
    return f"<figure>{legend}{body}<figcaption>{prose(figure.caption)}</figcaption>{data}</figure>"


def _both(wide: str, narrow: str) -> str:
    return f'<div class="only-wide">{wide}</div><div class="only-narrow">{narrow}</div>'


def _fitting(run: Run) -> tuple[Examples, list[Record]]:
    """The examples and their records: too much text drops random ones first, then shortens all; what was chosen always stays."""
    usual = 2 if len(run.arms) < 3 else 1
    for per_phase, longest in [*((n, 2000) for n in range(usual, -1, -1)), (0, 1000), (0, 500), (0, 250)]:
        chosen = choose(run, per_phase=per_phase)
        examples = chosen.flat()
        rows = read([example.rollout for example in examples])
        records = [record(example, row, longest=longest) for example, row in zip(examples, rows)]
        sizes = (2 * len(r["prompt"]) + 2 * len(r["response"]) + 60 * len(r["tokens"]) + len(r["picture"]) for r in records)
        if sum(sizes) < ROOM:
            break
    return chosen, records


def _examples(chosen: Examples, records: Sequence[Record], arms: Sequence[str]) -> str:
    if not chosen.stored:
        return "<p>No rollout was stored.</p>"
    most = limit(records, "credit")
    at = iter(range(len(records)))
    of = f"of {whole(chosen.compared)} stored with a reward and a truth"
    gamed = _counted(chosen.gamed, chosen.gamed_of, of, "paid more than half of the truer rollouts of its arm")
    missed = _counted(chosen.missed, chosen.missed_of, of, "paid less than half of the less true rollouts of its arm")
    differ = (
        f"{len(chosen.disagree)} of {plural(chosen.disagree_of, 'prompt')} on which the arms' mean truth differs, at the same seed "
    )
    differ += "and update; widest apart first, one rollout of each arm."
    drawn = "Drawn at random from every arm and phase with a fixed seed: typical, not chosen."
    parts = [_note(TINTS), _tools(channels(records), arms)]
    parts.append(_list("Gamed: reward high, truth low", "gamed", gamed, _drawn(chosen.gamed, records, at, most)))
    parts.append(_list("Missed: reward low, truth high", "missed", missed, _drawn(chosen.missed, records, at, most)))
    pairs = "".join(_pair(prompt, records, at, most, i == 0) for i, prompt in enumerate(chosen.disagree))
    if len(arms) > 1:
        parts.append(_list("Arms disagree on the same prompt", "disagree", differ, pairs))
    sample = drawn if chosen.sample else "Left out for the size of the page."
    parts.append(_list("Random", "sample", sample, _drawn(chosen.sample, records, at, most)))
    return "".join(parts)


def _counted(shown: Sequence[Example], found: int, of: str, what: str) -> str:
    if not found:
        return f"None {of} is {what}."
    return f"{len(shown)} of {whole(found)} that are {what}, {of}; widest gap first, at most two per prompt."


def _drawn(examples: Sequence[Example], records: Sequence[Record], at: Iterator[int], most: float) -> str:
    """The examples of a list, the first one open, each with the truest of its group where that was chosen."""
    made = []
    for i, example in enumerate(examples):
        index = next(at)
        best = None if example.best is None else record(Example(example.best), read([example.best])[0])
        made.append(example_html(example, records[index], index, most, opened=i == 0, beside=best))
    return "".join(made)


def _pair(prompt: Sequence[Example], records: Sequence[Record], at: Iterator[int], most: float, opened: bool) -> str:
    """One prompt with the rollout of each arm side by side."""
    places = [next(at) for _ in prompt]
    first = records[places[0]]
    truths = ", ".join(f"{markup(e.rollout.arm)} {e.rollout.truth:g}" for e in prompt)
    columns = "".join(example_html(e, records[i], i, most, opened=True, column=True) for e, i in zip(prompt, places))
    head = f"<b>truth {truths}</b> <span>seed {first['seed']}</span> <span>{first['phase']}, update {first['update']}</span>"
    body = f'{prompt_html(first)}<div class="cols">{columns}</div>'
    return f'<div class="pair"><details{" open" * opened}><summary>{head}</summary>{body}</details></div>'


def _tools(names: Sequence[str], arms: Sequence[str]) -> str:
    """Filters and switches; without a script there is nothing to filter with, so they stay hidden."""

    def select(label: str, name: str, options: Sequence[tuple[str, str]]) -> str:
        inner = "".join(f'<option value="{attribute(value)}">{markup(text)}</option>' for value, text in options)
        return f'<label>{label} <select id="{name}">{inner}</select></label>'

    made = [
        select("Phase", "phase", [("", "all phases"), *((phase, phase) for phase in PHASES)]),
        select("Reward", "arm", [("", "all"), *((arm, arm) for arm in arms)]),
        select("Tint by", "channel", [(name, name) for name in names]),
        select("Scale", "scale", [("all", "same for all examples"), ("own", "of each example")]),
    ]
    return f'<div class="js tools">{"".join(made)}</div>'


def _list(title: str, name: str, told: str, body: str) -> str:
    note = f'<p class="note">{prose(told)} <span class="left"></span></p>'
    return f'<h3>{title}</h3><div class="list" id="list-{name}">{note}{body}</div>'


def _note(text: str) -> str:
    return f'<p class="note">{prose(" ".join(text.split()))}</p>'


def resource(name: str) -> str:
    """A file of this folder: the page's frame, its style or its script."""
    return resources.files("payoff.report_page").joinpath(name).read_text(encoding="utf-8")


def policy_of(style: str, script: str) -> str:
    """A content security policy under which only this style and this script run, and nothing is loaded."""
    sources = f"img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    return f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
