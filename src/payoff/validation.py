"""What a validation found: how often right answers were refused and undeserving ones paid, with intervals, examples and a verdict.

The unit is one row: a rate over probes counts rows that any of them was paid on, because probes of one row are not independent.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from payoff.intervals import wilson

SLACK = 1e-6  # rewards are float32
MOST_INVALID = 0.2  # a larger share without verdict leaves the question open
GOLD = "gold"
Word = Literal["holds", "fails", "inconclusive"]


class Attempt(NamedTuple):
    """One answer put before the reward: of row number `row` (from 1), by probe name, and what it was given."""

    row: int
    probe: str
    prompt: str
    reference: str | None
    response: str
    reward: float | None
    reason: str = ""


@dataclass(frozen=True)
class Estimate:
    """A share with its interval; nothing is known of it where n is 0."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    unit: str = "row"
    level: float = 0.95
    method: str = "wilson"


@dataclass(frozen=True)
class Finding:
    """How one kind of answer was judged. Wrongly: below the bound for right answers, above it for all others."""

    probe: str
    what: str
    attempts: int
    invalid: int
    wrong: int
    rate: Estimate
    mean: float | None
    lowest: float | None
    highest: float | None


@dataclass(frozen=True)
class Bounds:
    """What is asked of a reward: at least `gold` for a right answer, at most `junk` for one that deserves nothing.

    refused, paid: the shares of rows in which a right answer may score less, and an undeserving one more.
    """

    gold: float = 1.0
    junk: float = 0.0
    refused: float = 0.0
    paid: float = 0.0


@dataclass(frozen=True)
class ValidationReport:
    """`verdict` is holds, fails or inconclusive; `says` is the sentence that goes with it.

    refused:    rows whose right answer scores below the bound; paid: rows on which at least one probe scores above it
    findings:   each kind of answer, right ones first; examples: the worst of those paid, then of those refused
    invalid:    answers without verdict, by reason; they take part in no rate
    """

    reward: str
    channel: str
    verdict: Word
    says: str
    rows: int
    without_gold: int
    bounds: Bounds
    refused: Estimate
    paid: Estimate
    findings: list[Finding]
    examples: list[Attempt] = field(default_factory=list)
    missed: list[Attempt] = field(default_factory=list)
    invalid: dict[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.verdict == "holds"

    def as_json(self) -> dict[str, Any]:
        """Plain data: numbers, text, lists and None."""
        data = dataclasses.asdict(self)
        for name in ("examples", "missed"):
            data[name] = [attempt._asdict() for attempt in getattr(self, name)]
        return data


def judge(
    reward: str, channel: str, attempts: Sequence[Attempt], bounds: Bounds, *, what: dict[str, str], shown: int = 10
) -> ValidationReport:
    """The report on attempts of any number of rows. what: what each probe is, by name, in the order to show."""
    golds = [a for a in attempts if a.probe == GOLD]
    probes = [a for a in attempts if a.probe != GOLD]
    rows = len({a.row for a in attempts})
    findings = [
        _finding(name, text, [a for a in attempts if a.probe == name], bounds)
        for name, text in what.items()
        if _made(name, attempts)
    ]
    fooled = {a.row for a in probes if _wrong(a, bounds)}
    refused = _share(sum(_wrong(a, bounds) for a in golds), sum(a.reward is not None for a in golds))
    paid = _share(len(fooled), len({a.row for a in probes if a.reward is not None}))
    verdict, says = _verdict(channel, findings, golds, probes, refused, paid, bounds)
    return ValidationReport(
        reward=reward,
        channel=channel,
        verdict=verdict,
        says=says,
        rows=rows,
        without_gold=rows - len(golds),
        bounds=bounds,
        refused=refused,
        paid=paid,
        findings=findings,
        examples=_worst((a for a in probes if _wrong(a, bounds)), shown, highest=True),
        missed=_worst((a for a in golds if _wrong(a, bounds)), shown, highest=False),
        invalid=dict(Counter(a.reason for a in attempts if a.reward is None).most_common()),
    )


def told(report: ValidationReport, *, shown: int = 3) -> str:
    """The report as lines of text for a terminal: verdict, a line for each kind of answer, and the worst examples.

    Signs: + as it should be, x judged wrongly somewhere, ? without any verdict. Text of tasks and models is shown escaped.
    """
    lines = [
        f"{report.reward}   {report.verdict.upper()}   {report.rows} rows, {len(report.findings)} kinds of answers",
        report.says,
    ]
    wide = max((len(f.probe) for f in report.findings), default=0)
    for f in report.findings:
        sign = "?" if f.rate.value is None else "x" if f.wrong else "+"
        verb = "refused" if f.probe == GOLD else "paid"
        scores = (
            "no verdict" if f.mean is None else f"{verb} {f.wrong}/{f.rate.n}, mean {f.mean:.3g}, {f.lowest:.3g} to {f.highest:.3g}"
        )
        lines.append(f"  {sign} {f.probe:<{wide}}  {scores}{f', {f.invalid} invalid' if f.invalid else ''}  ({f.what})")
    for title, attempts in (("paid", report.examples), ("refused", report.missed)):
        for a in attempts[:shown]:
            lines.append(
                f"  {title} {a.reward:.3g}, row {a.row}, {a.probe}: {_cut(a.response)} for {_cut(a.reference or a.prompt)}"
            )
    for reason, count in list(report.invalid.items())[:shown]:
        lines.append(f"  no verdict {count} times: {_cut(reason)}")
    return "\n".join(lines) + "\n"


def _verdict(
    channel: str,
    findings: Sequence[Finding],
    golds: Sequence[Attempt],
    probes: Sequence[Attempt],
    refused: Estimate,
    paid: Estimate,
    bounds: Bounds,
) -> tuple[Word, str]:
    """The word and the sentence that goes with it."""
    gold_share = f"gold scores at least {bounds.gold:g} in {refused.n - sum(_wrong(a, bounds) for a in golds)} of {refused.n} rows"
    scope = f"within {len({a.probe for a in probes})} kinds of undeserving answers on {paid.n} rows"
    bad = [f for f in findings if f.probe != GOLD and f.wrong]
    if (refused.value or 0) > bounds.refused:
        return "fails", f"{channel} refuses right answers in {_percent(refused)} of rows; {_paid(bad, paid, bounds)}."
    if (paid.value or 0) > bounds.paid:
        return "fails", f"{channel} pays answers that deserve nothing: {_paid(bad, paid, bounds)}; {gold_share}."
    unknown = sum(a.reward is None for a in golds), sum(a.reward is None for a in probes)
    if not refused.n or not paid.n:
        lacking = "right answers" if not refused.n else "undeserving answers"
        return (
            "inconclusive",
            f"{channel}: no verdict on any of the {lacking}; {_paid(bad, paid, bounds) if paid.n else gold_share}.",
        )
    if unknown[0] > MOST_INVALID * len(golds) or unknown[1] > MOST_INVALID * len(probes):
        share = f"{unknown[0]} of {len(golds)} right and {unknown[1]} of {len(probes)} undeserving answers"
        return "inconclusive", f"{channel} gives no verdict on {share}, so what makes it fail costs a policy nothing; {gold_share}."
    return "holds", f"{channel} holds {scope}: {gold_share}; {_paid(bad, paid, bounds)}."


def _paid(bad: Sequence[Finding], paid: Estimate, bounds: Bounds) -> str:
    if not paid.n:
        return "no undeserving answer got a verdict"
    above = f"more than {bounds.junk:g}" if bounds.junk else "anything"
    if not bad:
        return f"no undeserving answer is paid {above} (in up to {100 * (paid.high or 0):.2g} % of rows one may be)"
    worst = max(bad, key=lambda f: f.mean or 0)
    return f"at least one is paid {above} in {_percent(paid)} of rows, most {worst.probe} ({worst.mean:.3g} on average)"


def _percent(share: Estimate) -> str:
    return f"{100 * (share.value or 0):.0f} % ({100 * (share.low or 0):.0f}-{100 * (share.high or 0):.0f} %)"


def _made(name: str, attempts: Iterable[Attempt]) -> bool:
    return any(a.probe == name for a in attempts)


def _wrong(a: Attempt, bounds: Bounds) -> bool:
    if a.reward is None:
        return False
    return a.reward < bounds.gold - SLACK if a.probe == GOLD else a.reward > bounds.junk + SLACK


def _finding(probe: str, what: str, attempts: Sequence[Attempt], bounds: Bounds) -> Finding:
    known = [a.reward for a in attempts if a.reward is not None]
    wrong = sum(_wrong(a, bounds) for a in attempts)
    mean = sum(known) / len(known) if known else None
    low, high = (min(known), max(known)) if known else (None, None)
    return Finding(probe, what, len(attempts), len(attempts) - len(known), wrong, _share(wrong, len(known)), mean, low, high)


def _share(count: int, n: int) -> Estimate:
    if not n:
        return Estimate(None, None, None, 0)
    interval = wilson(count, n)
    return Estimate(interval.value, interval.low, interval.high, n)


def _worst(attempts: Iterable[Attempt], shown: int, *, highest: bool) -> list[Attempt]:
    """The farthest from what they deserve; of one probe and of one row two at most."""
    chosen: list[Attempt] = []
    probes: Counter[str] = Counter()
    rows: Counter[int] = Counter()
    for a in sorted(attempts, key=lambda a: (a.reward or 0.0) * (-1 if highest else 1)):
        if len(chosen) < shown and rows[a.row] < 2 and (probes[a.probe] < 2 or a.probe == GOLD):
            chosen.append(a)
            probes[a.probe] += 1
            rows[a.row] += 1
    return chosen


def _cut(text: str) -> str:
    shown = text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}"
    return ascii(shown) if not shown.isprintable() else repr(shown)
