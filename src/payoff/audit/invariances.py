"""Does the reward fall where nothing changed? The same right answer in other forms, each tried on many prompts.

The base of an attempt is a right response of the evidence, or the reference itself as a response, that the reward pays. What it
refuses as it stands is no question of invariance (`discrimination` asks that), and is counted only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from payoff.audit.attempts import (
    SLACK,
    Attempt,
    Evidence,
    Tried,
    altered,
    cluster_of,
    framed,
    gather,
    put,
    references_of,
    right_by,
    text_of,
    verdicts,
)
from payoff.audit.measurement import Measurement
from payoff.audit.perturbations import Edits, case_forms, number_forms, renamed, set_orders, spaced, wrapped
from payoff.audit.rates import rate
from payoff.audit.scorer import Row, Score


class Base(NamedTuple):
    """A paid right response: of which row, its text and reward. answer: the reference it states, None where it states none."""

    row: int
    text: str
    reward: float
    answer: str | None


class Family(NamedTuple):
    """A kind of change; `make` gives texts that are as right as the base."""

    question: str
    make: Callable[[Base, Row], Edits]
    advice: str
    remedies: tuple[str, ...] = ()


def invariances(
    score: Score,
    rows: Sequence[Row],
    *,
    gold: str | None = None,
    seed: int = 0,
    families: Sequence[str] | None = None,
    template: str | None = None,
    truth: Score | None = None,
    limit: int | None = 200,
    variants: int = 4,
    fall: float = 0.1,
    bound: float = 0.05,
    worst: float = 0.5,
) -> list[Measurement]:
    """The share of attempts in which a change without meaning lowers the reward: one "invariance-<family>" each, one call each.

    Lowered: by more than `fall` of the range of rewards seen. Where rows name a gold field, bases are the responses that are
    right by it; else, and for prompts without a right response, the reference as a response. Both count only where they are paid.

    families: which, by name (see FAMILIES); None: all. Where form is part of the task, leave out those that break it, or give the
    truth:    a scorer of what the reward stands for: a variant that it gives less than 0.5 is not right any more, and left out
    template: how the reference is phrased as a response; None: as right responses do it
    A row may bring `paraphrases` of its response, a list of texts: the family "paraphrase".

    Raises ValueError for a family that does not exist.

    >>> from payoff.audit.scorer import Scorer
    >>> from payoff.grading import signal
    >>> def literal(response, reference): return float(response.strip() == reference)
    >>> rows = [{"prompt": f"half of {k}?", "response": f"{k}/2", "reference": f"{k}/2", "ok": 1} for k in range(90)]
    >>> found = invariances(Scorer(signal(literal)), rows, gold="ok", families=["blank-space", "number-forms"])
    >>> [(m.name, m.estimate.value, m.result) for m in found]
    [('invariance-blank-space', 0.0, 'holds'), ('invariance-number-forms', 1.0, 'fails')]
    """
    unknown = sorted(set(families or ()) - FAMILIES.keys())
    if unknown:
        raise ValueError(f"invariances: no family {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    evidence = gather(score, rows, gold=gold, limit=limit, seed=seed, template=template)
    bases, refused = bases_of(score, evidence)
    found = []
    for name in FAMILIES if families is None else families:
        family = FAMILIES[name]
        made: list[Attempt] = []
        of: list[Base] = []
        for k, base in enumerate(bases):
            edits = family.make(base, evidence.rows[base.row])
            for step in range(min(variants, len(edits))):
                variant, text = edits[(k * variants + step) % len(edits)]
                if text != base.text:
                    made.append(Attempt(base.row, variant, altered(evidence.rows[base.row], text)))
                    of.append(base)
        still_right = [known is not False for known in right_by(truth, made)]
        kept = [(attempt, base) for attempt, base, right in zip(made, of, still_right, strict=True) if right]
        rewards = put(score, [attempt for attempt, _ in kept])[0]
        tried = []
        for (attempt, base), reward in zip(kept, rewards, strict=True):
            if reward is not None:
                gap = (base.reward - reward) / (evidence.span or 1.0)
                tried.append(Tried(attempt, reward, gap > max(fall if evidence.span else 0.0, SLACK), gap))
        also = f"{refused} prompts left out: their right response is not paid as it stands" if refused else ""
        lost = len(made) - len(kept)
        found.append(
            rate(
                f"invariance-{name}",
                family.question,
                tried,
                evidence,
                check="invariances",
                bound=bound,
                worst=worst,
                invalid=len(kept) - len(tried),
                advice=family.advice,
                remedies=family.remedies,
                also="; ".join([f"{lost} left out: not right any more by the truth"] * bool(lost) + [also] * bool(also)),
            )
        )
    return found


def bases_of(score: Score, evidence: Evidence) -> tuple[list[Base], int]:
    """One paid right response per prompt, and for how many prompts none that was tried is paid."""
    if evidence.threshold is None:
        return [], 0
    bases: list[Base] = []
    done: set[object] = set()
    refused: set[object] = set()
    for i, row in enumerate(evidence.rows):
        place, reward, text = cluster_of(row, i), evidence.reward[i], text_of(row.get("response"))
        if not evidence.right[i] or reward is None or place in done:
            continue
        if not evidence.pays(reward):
            refused.add(place)
            continue
        done.add(place)
        answers = references_of(row)
        stated = answers[0] if answers and (text.strip() == answers[0] or framed(text, answers[0])) else None
        bases.append(Base(i, text, reward, stated))
    left: dict[object, int] = {}
    for i, row in enumerate(evidence.rows):
        if references_of(row) and cluster_of(row, i) not in done:
            left.setdefault(cluster_of(row, i), i)
    texts = [evidence.phrase(references_of(evidence.rows[i])[0]) for i in left.values()]
    rewards = verdicts(score, [altered(evidence.rows[i], text) for i, text in zip(left.values(), texts, strict=True)])[0]
    for i, text, reward in zip(left.values(), texts, rewards, strict=True):
        if reward is not None and evidence.pays(reward):
            bases.append(Base(i, text, reward, references_of(evidence.rows[i])[0]))
            done.add(cluster_of(evidence.rows[i], i))
        elif reward is not None:
            refused.add(cluster_of(evidence.rows[i], i))
    return bases, len(refused - done)


# --- the families


def _answer(forms: Callable[[str], Edits]) -> Callable[[Base, Row], Edits]:
    """The base with its answer, where it last stands, in another form."""

    def make(base: Base, row: Row) -> Edits:
        if base.answer is None:
            return []
        before, after = framed(base.text, base.answer) or ("", "")
        return [(variant, f"{before}{form}{after}") for variant, form in forms(base.answer)]

    return make


def _wrapped(base: Base, row: Row) -> Edits:
    if base.answer is None:
        return []
    if base.text.strip() == base.answer:
        return wrapped(base.answer)
    return [(variant, f"{base.text}\n\n{form}") for variant, form in wrapped(base.answer)]


def _paraphrased(base: Base, row: Row) -> Edits:
    given = row.get("paraphrases")
    texts = [given] if isinstance(given, str) else list(given or ())
    return [(f"paraphrase {k + 1}", text) for k, text in enumerate(texts) if isinstance(text, str) and text.strip()]


FAMILIES: dict[str, Family] = {
    "number-forms": Family(
        "Is the same number in another form paid as much?",
        _answer(number_forms),
        "Compare numbers as numbers, and expressions as mathematics.",
        ("math-answer", "answer-match"),
    ),
    "case": Family(
        "Is a choice or a truth value in other letters paid as much?",
        _answer(case_forms),
        "Compare choices without regard to case and parentheses.",
        ("answer-match",),
    ),
    "set-order": Family(
        "Is a set with its elements in another order paid as much?",
        _answer(set_orders),
        "Compare sets as sets.",
        ("math-answer",),
    ),
    "blank-space": Family(
        "Is a response with blank space around it paid as much?",
        lambda base, row: spaced(base.text),
        "Strip a response before it is compared.",
        ("answer-match",),
    ),
    "wrapping": Family(
        "Is a right response that says its answer in a sentence, or once more, paid as much?",
        _wrapped,
        "Read the answer where it is marked, whatever stands around it.",
        ("answer-match", "math-answer"),
    ),
    "renaming": Family(
        "Is code with other names for its local variables paid as much?",
        lambda base, row: renamed(base.text),
        "Judge code by what it does: run it against tests.",
    ),
    "paraphrase": Family(
        "Is the same response in other words paid as much?",
        _paraphrased,
        "Average over wordings, or train on them.",
        ("par", "clamp"),
    ),
}
