"""Rows that teach a judge what an audit found it not to know: openers are no answers, and an answer belongs to its question."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from payoff.audit.attempts import Evidence, altered, gather, references_of, text_of
from payoff.audit.contrast import contrasts
from payoff.audit.scorer import Row, Score
from payoff.signals.answers import final_answer, same_answer

_SENTENCE = re.compile(r"(?<=[.!?:])\s|\n")


def first_sentence(text: str) -> str:
    r"""The first sentence of a text, or its first line where that is shorter.

    >>> first_sentence("Let me see. 3 + 4 = 7")
    'Let me see.'
    """
    return _SENTENCE.split(text.strip(), maxsplit=1)[0]


def opener_negatives(rows: Sequence[Row], count: int, *, label: str = "gold", seed: int = 0) -> list[dict[str, Any]]:
    """Up to `count` rows whose response is the first sentence of a response, labelled 0 (arXiv:2507.08794).

    Added to the rows that a judge is trained on, an eighth of these (20 000 to 160 000) took what one token earned from it to
    nearly nothing. Left out are responses of one sentence, and first sentences that give the row's right answer: what is short and
    right must not be taught to be wrong. The rows themselves keep their labels.

    >>> rows = [{"prompt": "3+4?", "response": "Let me see. The answer is 7", "reference": "7", "gold": 1.0}]
    >>> opener_negatives(rows, 5)[0]["response"], opener_negatives(rows, 5)[0]["gold"]
    ('Let me see.', 0.0)
    """
    found = []
    for k in random.Random(seed).sample(range(len(rows)), len(rows)):
        row = rows[k]
        whole = text_of(row.get("response")).strip()
        opener = first_sentence(whole)
        said = final_answer(opener)
        if opener and opener != whole and not any(same_answer(said or opener, right) for right in references_of(row)):
            found.append({**altered(row, opener), label: 0.0})
        if len(found) == count:
            break
    return found


def exchanged_negatives(
    score: Score, rows: Sequence[Row], *, gold: str | None = None, near: float = 0.5, label: str = "gold", seed: int = 0
) -> list[dict[str, Any]]:
    """Rows that answer one instruction rightly under another one near it, labelled 0 (arXiv:2309.16155).

    A reward that was trained on pairs within instructions alone may leave the instruction unread; these are what it lacks. The
    pairs are those of the check `consistency-instruction`.
    score: the reward, by which `gather` says which rows are right where there is no gold

    >>> from payoff.audit.scorer import Scorer
    >>> from payoff.grading import signal
    >>> def exact(response, reference): return float(response == reference)
    >>> rows = [{"prompt": f"add 1 and {k}", "response": str(k + 1), "reference": str(k + 1), "ok": 1} for k in range(3)]
    >>> [(row["prompt"], row["response"]) for row in exchanged_negatives(Scorer(signal(exact)), rows, gold="ok")][0]
    ('add 1 and 1', '1')
    """
    evidence: Evidence = gather(score, rows, gold=gold, limit=None, seed=seed)
    return [dict(row) for row in _exchanged(evidence, near, label)]


def _exchanged(evidence: Evidence, near: float, label: str) -> Iterator[Mapping[str, Any]]:
    for pair in contrasts(evidence, near=near, same=0.999):
        yield {**altered(pair.other, pair.response), label: 0.0}
