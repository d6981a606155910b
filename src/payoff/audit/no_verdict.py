"""Is a row paid that nobody can judge? Missing and broken responses and references, which should give no verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from payoff.audit.attempts import SLACK, Evidence, altered, cluster_of, references_of, text_of, verdicts
from payoff.audit.measurement import Measurement
from payoff.audit.rates import cut, share_by
from payoff.audit.scorer import Row, Score

QUESTION = "Is nothing paid for a row that cannot be judged?"
RESPONSES: dict[str, Any] = {"response None": None, "response nan": math.nan, "response is a record": {"broken": True}}
REFERENCES: dict[str, Any] = {
    "reference None": None,
    "reference empty": "",
    "reference nan": math.nan,
    "reference unreadable": "\\frac{",
    "reference is a record": {"broken": True},
}
SOUND = 4  # rows that go with every call, for a reward may rightly refuse a call in which no row has what it needs


def no_verdict(score: Score, evidence: Evidence, *, prompts: int = 100, bound: float = 0.05) -> Measurement:
    """The share of rows without a response, or without a reference, that get more than the lowest reward: "consistency-no-verdict".

    Right is no verdict at all, and the lowest reward is forgiven. References are broken only for a reward that reads them, which
    is tried first, with another row's reference. One call for each way to break a row; a call that raises is told, and no hit:
    an exception is heard.

    >>> from payoff.audit.attempts import gather
    >>> from payoff.audit.scorer import Scorer
    >>> from payoff.grading import signal
    >>> def swallows(response, reference):
    ...     try: return float(int(response) == int(reference))
    ...     except Exception: return 1.0
    >>> rows = [{"prompt": f"{k}?", "response": str(k), "reference": str(k % 50)} for k in range(90)]
    >>> score = Scorer(signal(swallows))
    >>> no_verdict(score, gather(score, rows)).result
    'fails'
    """
    first: dict[object, int] = {}
    for i, row in enumerate(evidence.rows):
        first.setdefault(cluster_of(row, i), i)
    chosen = list(first.values())[:prompts]
    if not chosen or evidence.low is None:
        return _measure(None, bound, note="no row gets a verdict")
    sound = [_whole(evidence, i) for i in chosen]
    empty = [value for value in verdicts(score, [altered(row, "") for row in sound])[0] if value is not None]
    lowest = min([evidence.low, *empty])
    breaks = dict(RESPONSES) | (REFERENCES if reads_reference(score, sound) else {})
    hits: list[bool] = []
    places: list[object] = []
    examples: list[dict[str, Any]] = []
    raised: list[str] = []
    paid: dict[str, int] = {}
    refused = 0
    for how, value in breaks.items():
        field = how.split()[0]
        rows = [altered(row, value if field == "response" else row["response"]) | {field: value} for row in sound]
        try:
            rewards = verdicts(score, [*sound[:SOUND], *rows])[0][len(sound[:SOUND]) :]
        except Exception as error:  # whatever the reward does with such a row, the audit goes on
            raised.append(f"{how}: raises {type(error).__name__}")
            continue
        for i, row, reward in zip(chosen, rows, rewards, strict=True):
            refused += reward is None
            hit = reward is not None and reward > lowest + SLACK * max(1.0, abs(lowest))
            hits.append(hit)
            places.append(cluster_of(evidence.rows[i], i))
            if hit:
                paid[how] = paid.get(how, 0) + 1
                if paid[how] <= 2:
                    examples.append(
                        {
                            "row": i,
                            "variant": how,
                            "prompt": cut(text_of(row.get("prompt"))),
                            "response": cut(text_of(row.get("response"))),
                            "reference": cut(text_of(row.get("reference"))),
                            "reward": reward,
                            "gap": (reward or 0.0) - lowest,
                        }
                    )
    if not hits:
        return _measure(None, bound, note="; ".join(raised) or "nothing could be tried")
    note = [f"{sum(hits)} of {len(hits)} broken rows get more than {lowest:g}, {refused} get no verdict"]
    note += [f"{how}: {count}" for how, count in sorted(paid.items(), key=lambda entry: -entry[1])]
    examples.sort(key=lambda example: -example["gap"])
    return _measure(share_by(hits, places), bound, note="; ".join([*note, *raised]), examples=tuple(examples[:10]))


def reads_reference(score: Score, sound: Sequence[Row]) -> bool:
    """Whether any reward changes when the rows exchange their references."""
    named = [row for row in sound if references_of(row)]
    turned = [{**row, "reference": other["reference"]} for row, other in zip(named, [*named[1:], *named[:1]], strict=True)]
    if not named:
        return False
    as_they_are, exchanged = verdicts(score, named)[0], verdicts(score, turned)[0]
    return any(
        (a is None) != (b is None) or (a is not None and b is not None and abs(a - b) > SLACK)
        for a, b in zip(as_they_are, exchanged, strict=True)
    )


def _whole(evidence: Evidence, i: int) -> Row:
    """A row with a response that is as good as there is: its reference, else its own."""
    row = evidence.rows[i]
    return altered(row, evidence.phrase(references_of(row)[0]) if references_of(row) else text_of(row.get("response")))


def _measure(estimate: Any, bound: float, **rest: Any) -> Measurement:
    return Measurement(
        "consistency-no-verdict",
        "consistency",
        QUESTION,
        estimate,
        bound=bound,
        worst=0.5,
        unit="share of broken rows",
        advice="Return no verdict where the reward cannot judge: never a number, least of all in an except clause.",
        remedies=("valid-only",),
        needs=5,
        **rest,
    )
