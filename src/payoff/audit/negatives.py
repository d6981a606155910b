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


def edited_steps(rows: Sequence[Row], *, truth: Score | None = None, label: str = "gold", seed: int = 0) -> list[dict[str, Any]]:
    """Good rows with one of their `steps` changed, labelled 0: hard negatives for whole trajectories (arXiv:2604.08178).

    Every row with two steps or more is changed once each way that its steps allow, at a step drawn by the seed: left out; said
    twice; exchanged with the next; or replaced by the step in that place of another row (a result that was never observed).
    `edit` says which way, and `edited` the number of the first step that changed. What is left the same text is left out.

    truth: a scorer of what rows stand for. A change that does not lower it is no negative, and left out: not every step matters

    >>> rows = [{"prompt": "p", "steps": ["open. ", "read. ", "stop."], "response": "open. read. stop."}]
    >>> [(row["edit"], row["edited"], row["response"]) for row in edited_steps(rows)][:2]
    [('left out', 1, 'open. stop.'), ('said twice', 1, 'open. read. read. stop.')]
    """
    rng = random.Random(seed)
    made: list[dict[str, Any]] = []
    of: list[Row] = []
    several = [row for row in rows if len(row.get("steps") or ()) > 1]
    for k, row in enumerate(several):
        steps = list(row["steps"])
        at = rng.randrange(len(steps))
        swap = min(at, len(steps) - 2)
        others = [other["steps"][at] for other in several[:k] + several[k + 1 :] if len(other["steps"]) > at]
        ways = {
            "left out": (at, steps[:at] + steps[at + 1 :]),
            "said twice": (at, steps[: at + 1] + steps[at:]),
            "exchanged": (swap, [*steps[:swap], steps[swap + 1], steps[swap], *steps[swap + 2 :]]),
        }
        if others:
            ways["from elsewhere"] = (at, [*steps[:at], rng.choice(others), *steps[at + 1 :]])
        for edit, (place, changed) in ways.items():
            if "".join(changed) != "".join(steps):
                made.append(altered(row, "".join(changed), steps=changed, edit=edit, edited=place) | {label: 0.0})
                of.append(row)
    if truth is None or not made:
        return made
    before, after = truth(of), truth(made)
    lower = (before.valid & after.valid & (after.value < before.value)).tolist()
    return [row for row, fell in zip(made, lower, strict=True) if fell]


def _exchanged(evidence: Evidence, near: float, label: str) -> Iterator[Mapping[str, Any]]:
    for pair in contrasts(evidence, near=near, same=0.999):
        yield {**altered(pair.other, pair.response), label: 0.0}
