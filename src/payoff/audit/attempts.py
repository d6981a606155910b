"""Changed rows put before a reward, and how often that goes wrong: what attacks, invariances and the search have in common.

`gather` scores the rows as they are, and says from which reward on an answer is paid as a right one. What is tried afterwards is a
list of `Attempt`s; `put` scores them in one call and `rate` makes a measurement of the outcome.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from payoff.audit.scorer import Row, Score
from payoff.rows import RECORDED, group_key
from payoff.signals.answers import final_answer, normalise, same_answer

SLACK = 1e-6  # rewards are float32
_WORDS = {"true": 1.0, "yes": 1.0, "correct": 1.0, "right": 1.0, "false": 0.0, "no": 0.0, "incorrect": 0.0, "wrong": 0.0}


@dataclass(frozen=True)
class Evidence:
    """Rows as they are, one response each, with what the reward gave them.

    reward:    None where there was no verdict; right: None where nobody knows
    low, high: the range of all rewards seen, of references as responses too; None where there was no verdict at all
    threshold: the reward from which on an answer counts as paid; `how` says where it comes from
    template:  how an answer is phrased; {reference} stands for it
    """

    rows: Sequence[Row]
    reward: Sequence[float | None]
    right: Sequence[bool | None]
    truth: Sequence[float | None]
    low: float | None
    high: float | None
    threshold: float | None
    how: str
    template: str

    @property
    def span(self) -> float:
        return 0.0 if self.low is None or self.high is None else self.high - self.low

    def pays(self, reward: float) -> bool:
        """Whether a reward is that of a right answer, but for rounding."""
        return self.threshold is not None and reward >= self.threshold - SLACK * max(1.0, abs(self.threshold))

    def phrase(self, answer: str) -> str:
        return self.template.replace("{reference}", answer)


class Attempt(NamedTuple):
    """One changed row: number `row` of the evidence, by which variant of the change, and the row itself."""

    row: int
    variant: str
    changed: Row


class Tried(NamedTuple):
    """What came of an attempt. gap: by how much it went wrong, in units of the range of rewards; hit: whether that counts."""

    attempt: Attempt
    reward: float
    hit: bool
    gap: float


def gather(
    score: Score,
    rows: Sequence[Row],
    *,
    gold: str | None = None,
    limit: int | None = 200,
    seed: int = 0,
    template: str | None = None,
) -> Evidence:
    """Score up to `limit` of the rows, and each reference as a response, in one call.

    A row of `chosen` and `rejected` counts as two, right and wrong. Without a template, what stands around the reference in right
    responses is taken for one.

    >>> from payoff.audit.scorer import Scorer
    >>> from payoff.grading import signal
    >>> def right(response, reference): return float(response == reference)
    >>> rows = [{"prompt": "2+2=", "response": text, "reference": "4", "ok": text == "4"} for text in ("4", "5", "44")]
    >>> evidence = gather(Scorer(signal(right)), rows, gold="ok")
    >>> evidence.threshold, evidence.low, evidence.high, evidence.template
    (1.0, 0.0, 1.0, '{reference}')
    """
    singles = responses_of(rows, gold)
    if limit is not None and len(singles) > limit:
        singles = [singles[i] for i in sorted(random.Random(f"{seed} rows").sample(range(len(singles)), limit))]
    truth = [None if gold is None else number(row.get(gold)) for row in singles]
    right = rightness(truth)
    template = template or inferred_template(singles, right)
    own = [i for i, row in enumerate(singles) if row.get("response") is not None]
    named = {json.dumps([text_of(row.get("prompt")), references_of(row)[0]]): row for row in singles if references_of(row)}
    stated = [altered(row, template.replace("{reference}", references_of(row)[0])) for row in named.values()]
    asked = [altered(singles[i], singles[i]["response"], steps=singles[i].get("steps")) for i in own] + stated
    values = verdicts(score, asked)[0]
    reward: list[float | None] = [None] * len(singles)
    for i, value in zip(own, values[: len(own)], strict=True):
        reward[i] = value
    of_references = [value for value in values[len(own) :] if value is not None]
    seen = [value for value in values if value is not None]
    threshold, how = paid_from(reward, right, of_references)
    low, high = (min(seen), max(seen)) if seen else (None, None)
    return Evidence(singles, reward, right, truth, low, high, threshold, how, template)


def paid_from(
    reward: Sequence[float | None], right: Sequence[bool | None], of_references: Sequence[float]
) -> tuple[float | None, str]:
    """The reward from which on an answer counts as paid, and where that comes from; None where nothing was ever paid.

    The lowest reward of a right response, of those above what the typical wrong response gets: one right answer that was refused
    must not make every refused answer a success. Where all rewards are equal: that reward, for it is what a right answer gets.
    Without labels the middle of the range of rewards; where that is one number, the reward of the references.

    >>> paid_from([1.0, 0.0, 0.0, 1.0], [True, True, False, None], [])
    (1.0, 'the lowest reward of a right response above the typical wrong one')
    """
    of_right = [r for r, ok in zip(reward, right, strict=True) if r is not None and ok]
    of_wrong = [r for r, ok in zip(reward, right, strict=True) if r is not None and ok is False]
    known = [r for r in reward if r is not None] + list(of_references)
    above = [r for r in of_right if not of_wrong or r > median(of_wrong)]
    if above:
        return min(above), "the lowest reward of a right response above the typical wrong one"
    if not known:
        return None, "no verdict on any response"
    if max(known) > min(known):
        return (min(known) + max(known)) / 2, "the middle of the range of rewards"
    if of_right or of_references:
        return known[0], "the one reward that everything gets, right responses too"
    return None, "all rewards are equal, and no response is known to be right"


def put(score: Score, attempts: Sequence[Attempt]) -> tuple[list[float | None], list[str]]:
    """The reward of every attempt, None where there was no verdict, and the reasons why not; one call in all."""
    return verdicts(score, [attempt.changed for attempt in attempts])


def verdicts(score: Score, rows: Sequence[Row]) -> tuple[list[float | None], list[str]]:
    if not rows:
        return [], []
    value, valid, reasons, _ = score(rows)
    return [v if ok else None for v, ok in zip(value.tolist(), valid.tolist(), strict=True)], list(reasons.values())


def altered(row: Row, response: Any, *, steps: Sequence[str] | None = None, **fields: Any) -> dict[str, Any]:
    """The row with another response; of what was recorded of the old one only its group stays. steps: those of the new one."""
    own = {k: v for k, v in row.items() if k not in RECORDED and k not in ("reward", "reason", "steps")}
    own |= {"response": response} | ({"group": row["group"]} if row.get("group") is not None else {})
    if "steps" in row or steps is not None:
        own["steps"] = list(steps) if steps is not None else [response]
    return own | fields


def responses_of(rows: Sequence[Row], gold: str | None) -> list[Row]:
    """Rows of one response each: one of `chosen` and `rejected` becomes two, with the label 1 and 0 where a gold field is named."""
    found: list[Row] = []
    for row in rows:
        if row.get("response") is None and row.get("chosen") is not None and row.get("rejected") is not None:
            label: Callable[[float], dict[str, Any]] = lambda value: {} if gold is None else {gold: value}
            found += [{**row, "response": row["chosen"]} | label(1.0), {**row, "response": row["rejected"]} | label(0.0)]
        else:
            found.append(row)
    return found


def rightness(truth: Sequence[float | None]) -> list[bool | None]:
    """Whether each true score is that of a right response: at least 0.5 where all lie in [0, 1], else the middle of their range."""
    known = [value for value in truth if value is not None]
    if not known:
        return [None] * len(truth)
    if min(known) >= 0 and max(known) <= 1:
        middle = 0.5
    elif min(known) == max(known):
        return [None] * len(truth)  # one number on an unknown scale
    else:
        middle = (min(known) + max(known)) / 2
    return [None if value is None else value >= middle for value in truth]


def inferred_template(rows: Sequence[Row], right: Sequence[bool | None]) -> str:
    """What right responses all write around their reference, up to 40 characters either side; else the bare answer.

    >>> rows = [{"response": f"so x = {k}, #{k}.", "reference": str(k)} for k in (7, 12)]
    >>> inferred_template(rows, [True, True])
    ', #{reference}.'
    """
    frames = []
    for row, ok in zip(rows, right, strict=True):
        found = ok and references_of(row) and framed(text_of(row.get("response")), references_of(row)[0])
        if found:
            frames.append(found)
    if len(frames) < 2:
        return "{reference}"
    before = _shared_start([left[::-1] for left, _ in frames])[::-1]
    return f"{before}{{reference}}{_shared_start([end for _, end in frames])}"


def _shared_start(texts: Sequence[str], longest: int = 40) -> str:
    """What all texts begin with, up to `longest` characters."""
    columns = zip(*(text[:longest] for text in texts))
    return "".join(column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def framed(response: str, reference: str) -> tuple[str, str] | None:
    """What stands before and after the last place where the reference is written as a word or number of its own."""
    if not reference.strip() or len(response) > 100_000:
        return None
    places = [m.span() for m in re.finditer(rf"(?<![\w.]){re.escape(reference)}(?!\w|\.\w)", response)]
    return (response[: places[-1][0]], response[places[-1][1] :]) if places else None


def answers_right(text: str, row: Row, evidence: Evidence) -> bool:
    """Whether a text is a right answer by comparison: as it stands, by its final answer, or in the phrasing of the evidence."""
    said = {text, final_answer(text) or text}
    wanted = {form for one in references_of(row) for form in (one, evidence.phrase(one))}
    return any(_alike(answer, one) for answer in said for one in wanted)


def _alike(answer: str, wanted: str) -> bool:
    """`same_answer`, which has nothing to compare but the texts where one of them does not begin as a number does."""
    a, b = _normal(answer), _normal(wanted)
    return a == b or (a[:1] in _NUMERIC and b[:1] in _NUMERIC and same_answer(answer, wanted))


@functools.lru_cache(maxsize=1 << 14)
def _normal(text: str) -> str:
    """`normalise`, once for what is compared with hundreds of texts."""
    return normalise(text)


_NUMERIC = frozenset("+-.0123456789")


def right_by(truth: Callable[[Sequence[Row]], Any] | None, attempts: Sequence[Attempt]) -> list[bool | None]:
    """What a scorer of the truth says of each attempt, None where it does not: at least 0.5 is right."""
    if truth is None:
        return [None] * len(attempts)
    return [None if value is None else value >= 0.5 - SLACK for value in put(truth, attempts)[0]]


def references_of(row: Row) -> list[str]:
    """The right answers that a row names, as text; an answer and not a record, so of a mapping nothing."""
    given = row.get("reference")
    several = given if isinstance(given, list | tuple) else [given]
    return [str(one) for one in several if isinstance(one, str | int | float) and str(one).strip()]


def text_of(value: Any) -> str:
    """A field as text; of a conversation its last message."""
    if isinstance(value, list | tuple) and value and isinstance(value[-1], Mapping):
        value = value[-1].get("content")
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def number(value: Any) -> float | None:
    """A label as a number: words for true and false count; None for what is no finite number."""
    if isinstance(value, str):
        value = _WORDS.get(value.strip().casefold(), value)
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def cluster_of(row: Row, i: int) -> Hashable:
    """What rows that are not independent have in common: group or prompt; a row without either stands alone."""
    return group_key(row) or ("row", i)
