"""Does the reward agree with itself? Asked twice, in other orders and calls, about swapped pairs, about nothing, and over time.

`preferences` asks whether its preferences go round in circles.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Mapping, Sequence
from datetime import datetime
from typing import Any

import torch

from payoff.audit.attempts import SLACK, Evidence, altered, cluster_of, gather, number, text_of, verdicts
from payoff.audit.bias_pairs import dense_clusters
from payoff.audit.contrast import contrast
from payoff.audit.measurement import Measurement
from payoff.audit.no_verdict import no_verdict
from payoff.audit.noise_without_gold import wavering
from payoff.audit.preferences import preferences
from payoff.audit.prompt_cache import prompt_cache
from payoff.audit.rates import cut, share_by
from payoff.audit.residuals import partial_rank_correlation, size_of
from payoff.audit.scorer import Row, Score
from payoff.intervals import Interval

Rewards = Sequence[float | None]


def consistency(
    score: Score,
    rows: Sequence[Row],
    *,
    gold: str | None = None,
    seed: int = 0,
    template: str | None = None,
    limit: int | None = 200,
    tolerance: float = 1e-3,
    bound: float = 0.05,
    drift_bound: float = 0.2,
) -> list[Measurement]:
    """All measures of consistency, each named "consistency-...", and the noise of a verdict that wavers ("...-repeats").

    instruction, response:  a right response against a near instruction's (`contrast`)
    swapped-pairs:          the share of pairs whose verdict turns with the order in which they are given
    triples, scalar-order, bradley-terry: circles among preferences (`preferences`)
    retest:                 the share of rows that get another reward when they are scored again as they are
    batch-order, batch-size: the same in another order, and in several calls; of rows that are stable when merely asked again
    prompt-cache, response-ignored: whether what was said for one response is given to another (`prompt_cache`)
    no-verdict:             whether rows that cannot be judged are paid (`no_verdict`)
    false-positive-rate-repeats, false-negative-rate-repeats, verdict-slope-repeats: from four verdicts a row (`wavering`)
    drift:                  |rank correlation| of the reward with the rows' `time`, given the truth; of rows without a time, of the
                            difference between scoring them forwards and backwards with their place

    tolerance: a difference up to this share of the range of rewards is none. bound: the largest share that is still good.

    >>> from payoff.audit.scorer import Scorer
    >>> from payoff.grading import signal
    >>> calls = []
    >>> def tired(response):
    ...     calls.append(response)
    ...     return len(response) - len(calls) / 100
    >>> rows = [{"prompt": f"{k}?", "response": "x" * (k % 5)} for k in range(100)]
    >>> found = {m.name: m.result for m in consistency(Scorer(signal(tired)), rows)}
    >>> found["consistency-retest"], found["consistency-drift"]
    ('fails', 'fails')
    """
    evidence = gather(score, rows, gold=gold, limit=limit, seed=seed, template=template)
    own = [i for i, row in enumerate(evidence.rows) if row.get("response") is not None]
    asked = [_asked(evidence.rows[i]) for i in own]
    same = tolerance * (evidence.span or 1.0)
    first, again = verdicts(score, asked)[0], verdicts(score, asked)[0]
    backwards = verdicts(score, asked[::-1])[0][::-1]
    rng = random.Random(f"{seed} order")
    order = rng.sample(range(len(asked)), len(asked))
    shuffled = dict(zip(order, verdicts(score, [asked[k] for k in order])[0], strict=True))
    apart = _apart(score, evidence, own, asked, rng)
    stable = [a is not None and b is not None and abs(a - b) <= same for a, b in zip(first, again, strict=True)]
    found = contrast(score, evidence)
    found.append(_swapped(score, rows, evidence, limit or len(rows), bound))
    found += preferences(score, evidence, bound=bound)
    found.append(_changed("retest", evidence, own, first, again, [True] * len(own), same, bound))
    found.append(_changed("batch-order", evidence, own, first, [shuffled[k] for k in range(len(own))], stable, same, bound))
    found.append(_changed("batch-size", evidence, own, first, apart, stable, same, bound))
    found += prompt_cache(score, evidence, seed=seed, tolerance=tolerance, bound=bound)
    found.append(no_verdict(score, evidence, bound=bound))
    found.append(_drift(evidence, own, first, backwards, drift_bound))
    every = [first, again, backwards, [shuffled[k] for k in range(len(own))]]
    clusters = dense_clusters([evidence.rows[i] for i in own], own)
    columns = torch.tensor([[math.nan if x is None else x for x in rewards] for rewards in every], dtype=torch.float64).T
    return found + wavering(columns.nan_to_num(0.0), columns.isfinite(), clusters)


def _asked(row: Row) -> dict[str, Any]:
    return altered(row, row["response"], steps=row.get("steps"))


def _apart(score: Score, evidence: Evidence, own: Sequence[int], asked: Sequence[Row], rng: random.Random) -> Rewards:
    """Scored in several calls: up to eight prompts alone, the others in four parts. What shares a prompt stays together."""
    places: dict[Hashable, list[int]] = {}
    for k, i in enumerate(own):
        places.setdefault(cluster_of(evidence.rows[i], i), []).append(k)
    members = list(places.values())
    rng.shuffle(members)
    parts = members[:8] + [[k for of in members[8 + p :: 4] for k in of] for p in range(4)]
    rewards: list[float | None] = [None] * len(own)
    for part in parts:
        for k, reward in zip(part, verdicts(score, [asked[k] for k in part])[0], strict=True):
            rewards[k] = reward
    return rewards


_CHANGED = {
    "retest": (
        "Does the same row get the same reward when it is scored again?",
        "Fix the seed or the temperature of the judge, or take the mean of several verdicts.",
        (),
    ),
    "batch-order": (
        "Does a row's reward not depend on where it stands in the call?",
        "Score every row by itself, or say that the reward sees its batch.",
        (),
    ),
    "batch-size": (
        "Does a row's reward not depend on how many rows are scored with it?",
        "Take padding and statistics of the batch out of the score, or say that the reward sees its batch.",
        ("grpo", "par-mean-std"),
    ),
}


def _changed(
    name: str, evidence: Evidence, own: Sequence[int], one: Rewards, two: Rewards, counts: Sequence[bool], same: float, bound: float
) -> Measurement:
    """The share of rows whose two rewards differ. A verdict that is there only once is a difference too."""
    question, advice, remedies = _CHANGED[name]
    both = [(i, a, b) for i, a, b, ok in zip(own, one, two, counts, strict=True) if ok and not (a is None and b is None)]
    if not both:
        why = "no row with a verdict" if name == "retest" else "no row gets the same reward when it is merely asked again"
        return _measure(name, question, None, bound, note=why)
    gaps = {i: abs(a - b) if a is not None and b is not None else float("inf") for i, a, b in both}
    place = [cluster_of(evidence.rows[i], i) for i, _, _ in both]
    estimate = share_by([gaps[i] > same for i, _, _ in both], place)
    worst = sorted((entry for entry in both if gaps[entry[0]] > same), key=lambda entry: -gaps[entry[0]])[:10]
    hits, once = sum(gap > same for gap in gaps.values()), sum(gap == float("inf") for gap in gaps.values())
    note = f"{hits} of {len(both)} rows" + (f"; {once} had a verdict only once" if once else "")
    examples = tuple(_example(evidence.rows[i], i, reward=a, reward_again=b) for i, a, b in worst)
    return _measure(name, question, estimate, bound, note=note, advice=advice, remedies=remedies, examples=examples)


def _swapped(score: Score, rows: Sequence[Row], evidence: Evidence, limit: int, bound: float) -> Measurement:
    """Rows with `other` are judged as they are and swapped; pairs of chosen and rejected in both orders within a call."""
    question = "Does the verdict on a pair not turn with the order in which it is given?"
    advice = "Ask in both orders, and count a pair only where both agree."
    compared = [i for i, row in enumerate(evidence.rows) if row.get("other") is not None and row.get("response") is not None]
    if compared:
        straight = [_asked(evidence.rows[i]) for i in compared]
        turned = [altered(evidence.rows[i], evidence.rows[i]["other"], other=evidence.rows[i]["response"]) for i in compared]
        rewards = verdicts(score, straight + turned)[0]
        one, two = rewards[: len(compared)], rewards[len(compared) :]
        known = [reward for reward in rewards if reward is not None]
        centre = 0.5 if known and min(known) >= 0 and max(known) <= 1 else 0.0
        signs = [(_sign(a - centre), _sign(centre - b)) for a, b in zip(one, two, strict=True) if a is not None and b is not None]
        kept = [i for i, a, b in zip(compared, one, two, strict=True) if a is not None and b is not None]
        sources: Sequence[Row] = [evidence.rows[i] for i in kept]
        lost, what = len(compared) - len(kept), "pairs, each asked in both orders"
    else:
        pairs = [row for row in rows if row.get("chosen") is not None and row.get("rejected") is not None][:limit]
        ahead = [altered(row, row[name]) for row in pairs for name in ("chosen", "rejected")]
        behind = [altered(row, row[name]) for row in pairs for name in ("rejected", "chosen")]
        one, two = verdicts(score, ahead)[0], verdicts(score, behind)[0]
        fours = [(one[2 * k], one[2 * k + 1], two[2 * k + 1], two[2 * k]) for k in range(len(pairs))]
        kept = [k for k, four in enumerate(fours) if None not in four]
        signs = [(_sign(a - b), _sign(c - d)) for a, b, c, d in fours if None not in (a, b, c, d)]  # type: ignore[operator]
        sources = [pairs[k] for k in kept]
        lost, what = len(pairs) - len(kept), "pairs of chosen and rejected, in both orders within a call"
    if not signs:
        return _measure("swapped-pairs", question, None, bound, note="no pair of `other` or of `chosen` with verdicts")
    hits = [a != b for a, b in signs]
    estimate = share_by(hits, [cluster_of(row, k) for k, row in enumerate(sources)])
    examples = [_example(row, k) for k, (row, hit) in enumerate(zip(sources, hits, strict=True)) if hit][:10]
    note = f"{sum(hits)} of {len(hits)} {what}" + (f"; {lost} without verdict" if lost else "")
    more = {"advice": advice, "remedies": ("par",), "examples": tuple(examples)}
    return _measure("swapped-pairs", question, estimate, bound, note=note, **more)


def _drift(evidence: Evidence, own: Sequence[int], first: Rewards, backwards: Rewards, bound: float) -> Measurement:
    question = "Does the reward not change with time?"
    times = [moment(evidence.rows[i].get("time")) for i in own]
    known = any(truth is not None for truth in evidence.truth)
    if any(time is not None for time in times):
        usable = lambda k: times[k] is not None and first[k] is not None and (not known or evidence.truth[own[k]] is not None)
        kept = [k for k in range(len(own)) if usable(k)]
        y = [first[k] for k in kept]
        x = [times[k] for k in kept]
        given = torch.tensor([evidence.truth[own[k]] for k in kept], dtype=torch.float64) if known else None
        what = "the rows' `time`" + (", given the truth" if known else "; without a gold field the rows may differ: only told")
    else:
        kept = [k for k, (a, b) in enumerate(zip(first, backwards, strict=True)) if a is not None and b is not None]
        y = [(first[k] or 0.0) - (backwards[k] or 0.0) for k in kept]
        x, given, known = [float(k) for k in kept], None, True
        what = "the place in the call, of the difference between scoring forwards and backwards: rows name no `time`"
    if len(kept) < 3:
        return _measure("drift", question, None, bound, note="fewer than three rows with a verdict")
    place = [own[k] for k in kept]
    clusters = dense_clusters([evidence.rows[i] for i in place], place)
    column = torch.tensor(y, dtype=torch.float64)
    column = torch.where((column - column.median()).abs() <= SLACK * max(1.0, evidence.span), column.median(), column)
    estimate, _ = partial_rank_correlation(column, torch.tensor(x, dtype=torch.float64), clusters, given=given)
    if estimate is None:
        return _measure("drift", question, None, bound, note=f"no trend to be seen: {what} does not vary on these rows")
    return _measure(
        "drift",
        question,
        size_of(estimate),
        bound if known else None,
        note=f"correlation {estimate.value:+.2f} with {what}",
        advice="Pin the version of the judge, and score all rows that are compared in one go.",
        remedies=("par-mean-std",),
        unit="rank correlation",
        worst=1.0,
    )


def moment(value: Any) -> float | None:
    """A time as a number: seconds, or text in ISO 8601; None for anything else.

    >>> moment(3), moment("1970-01-02T00:00:00+00:00"), moment("yesterday"), moment(None)
    (3.0, 86400.0, None, None)
    """
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, str) and number(value) is None:
        try:
            return datetime.fromisoformat(value).timestamp()
        except ValueError:
            return None
    return number(value)


def _sign(x: float) -> int:
    return 0 if abs(x) <= SLACK else 1 if x > 0 else -1


def _example(row: Row, i: int, **rewards: Any) -> Mapping[str, Any]:
    shown = ("prompt", "response", "other", "chosen", "rejected")
    texts = {name: cut(text_of(row[name])) for name in shown if row.get(name) is not None}
    return {"row": i, **texts, **rewards}


def _measure(name: str, question: str, estimate: Interval | None, bound: float | None, **rest: Any) -> Measurement:
    fields: dict[str, Any] = {"unit": "share of rows", "worst": 0.5, "needs": 5} | rest
    return Measurement(f"consistency-{name}", "consistency", question, estimate, bound=bound, **fields)
