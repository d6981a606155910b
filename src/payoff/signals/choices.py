"""Answers of a given kind: a letter among choices, a set of labels, a number in a range. Graders of one rollout."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.answers import Reference, _number, final_answer, normalise
from payoff.signals.bleu import texts_of
from payoff.signals.tags import in_order

_LETTER = re.compile(r"(?:(?:option|choice|answer)\s*:?\s*)?[\s(\[*]*([a-z])[\s)\]*]*(?:[.):,]|$)\W*(.*)", re.DOTALL)
_APART = re.compile(r"[,;\n]|\band\b|\s[-*\u2022]\s")
_NO_REFERENCE = Verdict(0.0, valid=False, reason="no reference to compare the answer with")


@method("choice", kind="grader")
def choice(response: str, reference: Reference, choices: Any = None) -> float | Verdict:
    """1 where the final answer chooses what the reference names, by its letter or its text, else 0.

    A letter may stand alone or in "(B)", "B.", "option B" or "B) Paris"; a letter with the text of another choice is wrong, and so
    is more than one choice ("A or B"). The reference may be a letter, the text of a choice, or its number from 0 on; several: any.

    choices: a field of the rows, the texts in the order of their letters; without it only letters can be told apart
    Range 0 or 1. Cost: one reading. Gamed by a letter that is right more often than others: shuffle the choices, and compare with
    the best constant letter. No verdict without a reference, or for one that is none of the choices.

    >>> [choice(said, "B", ["Rome", "Paris"]) for said in ("It is B", "The answer is (B).", "Answer: Paris", "B) Rome", "A or B")]
    [0.0, 1.0, 1.0, 0.0, 0.0]
    """
    if choices is not None and not isinstance(choices, list | tuple):
        return Verdict(0.0, valid=False, reason=f"choices must be a list of texts, got {str(choices)[:40]!r}")
    if isinstance(reference, int) and not isinstance(reference, bool):
        wanted = {reference} if 0 <= reference < (len(choices) if choices else 26) else set()
        named = True
    else:
        texts = texts_of(reference)
        named, wanted = bool(texts), {k for one in texts if (k := _chosen(final_answer(one) or one, choices)) is not None}
    if not wanted:
        return Verdict(0.0, valid=False, reason="the reference is none of the choices") if named else _NO_REFERENCE
    answer = final_answer(response)
    return float(answer is not None and _chosen(answer, choices) in wanted)


@method("medvlm-r1", kind="grader", paper="arXiv:2502.19634")
def medvlm_r1(response: str, reference: Reference, choices: Any = None) -> float | Verdict:
    """Form + right choice, 0 to 2 (MedVLM-R1): 1 for <think>...</think><answer>...</answer> and nothing else, 1 for the letter.

    The form is that of `tags`, the letter that of `choice`; the reasoning is not looked at, and need not support the answer.
    Cost, gaming and verdicts as `choice`; form alone is worth as much as being right.

    >>> medvlm_r1("<think>round</think> <answer>B</answer>", "B"), medvlm_r1("<answer>B</answer>", "B")
    (2.0, 1.0)
    """
    right = choice(response, reference, choices)
    return right if isinstance(right, Verdict) else right + in_order(response, ("think", "answer"))


@method("label-set", kind="grader")
def label_set(
    response: str, reference: Reference, *, measure: Literal["exact", "f1", "jaccard", "recall"] = "f1"
) -> float | Verdict:
    """How well the set of things that an answer lists is the reference's set, in 0..1, in any order.

    The final answer is cut at commas, semicolons, line ends, list marks and "and"; what `normalise` holds for equal is one thing,
    and counts once. With m in both: "exact": 1 if the sets are equal; "f1": 2 m / (sum of sizes); "jaccard": m / (size of
    the union); "recall": m / (size of the reference's).

    reference: a list of all that is wanted, or text that is cut in the same way
    Cost: linear. "recall" is gamed by listing everything; the others lose for each wrong thing. Words that are near are wrong.
    No verdict without a reference. Raises ValueError for another measure.

    >>> [label_set("The answer is red, blue and green", ["Blue", "red"], measure=m) for m in ("exact", "f1", "jaccard", "recall")]
    [0.0, 0.8, 0.6666666666666666, 1.0]
    """
    if measure not in ("exact", "f1", "jaccard", "recall"):
        raise ValueError(f"label_set: measure must be exact, f1, jaccard or recall, got {measure!r}")
    texts = texts_of(reference)
    if isinstance(reference, str):
        texts = listed(reference)
    wanted = {normalise(one) for one in texts}
    if not wanted:
        return _NO_REFERENCE
    answer = final_answer(response)
    said = {normalise(one) for one in listed(answer)} if answer else set()
    shared = len(said & wanted)
    if measure == "exact":
        return float(said == wanted)
    bottom = {"f1": (len(said) + len(wanted)) / 2, "jaccard": len(said | wanted), "recall": len(wanted)}[measure]
    return shared / bottom


@method("med-r1", kind="grader", paper="arXiv:2503.13939")
def med_r1(
    response: str,
    reference: Reference,
    labels: Any,
    *,
    negative: str = "no finding",
    negative_pay: float = 0.25,
    share: bool = False,
) -> float | Verdict:
    """1 for every right label that the answer names, and nothing at all where it names a wrong one (Med-R1's multi-label reward).

    Where the reference is `negative` alone, naming it is paid `negative_pay`. Labels are found as whole words in the final answer,
    any case; the longest label at a place counts.

    labels: a field of the rows (or an option): all labels there are; share: divide by the number of right labels
    Range 0 .. number of right labels (0 .. 1 with `share`: rows with many findings no longer count for more). Cost: linear in
    the answer times the labels. Gamed by naming only what is sure: a label of chance p pays where p (k + 1) > k, with k sure ones
    named; one that is denied ("no mass") is named all the same. No verdict without a reference among the labels.

    >>> findings = ["mass", "edema", "no finding"]
    >>> [med_r1(said, ["mass", "edema"], findings) for said in ("Mass, edema", "edema", "edema, no finding", "massive")]
    [2.0, 1.0, 0.0, 0.0]
    """
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        return Verdict(0.0, valid=False, reason=f"labels must be a list of texts, got {str(labels)[:40]!r}")
    known = {normalise(label) for label in labels if normalise(label)}
    wanted = {normalise(one) for one in (listed(reference) if isinstance(reference, str) else texts_of(reference))}
    if not wanted:
        return _NO_REFERENCE
    if not wanted <= known | {normalise(negative)}:
        return Verdict(0.0, valid=False, reason=f"not among the labels: {', '.join(sorted(wanted - known))[:200]}")
    answer = normalise(final_answer(response) or "")
    either = "|".join(re.escape(label) for label in sorted(known | {normalise(negative)}, key=len, reverse=True))
    said = set(re.findall(rf"(?<!\w)(?:{either})(?!\w)", answer))
    if not said <= wanted:
        return 0.0
    pay = math.fsum(negative_pay if label == normalise(negative) else 1.0 for label in said)
    return pay / len(wanted) if share else pay


@method("number-in-range", kind="grader")
def number_in_range(response: str, low: float | int | str | None, high: float | int | str | None) -> float | Verdict:
    """1 where the final answer is a number with low <= answer <= high, else 0. Compared as exact fractions.

    low, high: fields of the rows; None in one of them: open on that side
    Range 0 or 1. Cost: one reading. Gamed by nothing but guessing: the middle of what is usual is often in a wide range. No verdict
    where neither bound is a number, or low > high.

    >>> [number_in_range(said, 2.5, 3) for said in ("about \\\\boxed{3.0}", "The answer is 3.01", "pi")]
    [1.0, 0.0, 0.0]
    """
    bounds = [None if bound is None else _number(normalise(str(bound))) for bound in (low, high)]
    bad = any(bound is None and given is not None for bound, given in zip(bounds, (low, high), strict=True))
    least, most = bounds
    if bad or (least is None and most is None) or (least is not None and most is not None and least > most):
        return Verdict(0.0, valid=False, reason=f"low and high must be numbers in order, got {low!r} and {high!r}"[:300])
    answer = final_answer(response)
    number: Fraction | None = None if answer is None else _number(normalise(answer))
    return float(number is not None and (least is None or number >= least) and (most is None or number <= most))


@method("interval-score", kind="grader")
def interval_score(
    response: str, reference: Reference, low: float | int | str | None, high: float | int | str | None, *, level: float = 0.9
) -> float | Verdict:
    """A proper score in 0..1 of an interval stated for a number that lies in low .. high: narrow is good, missing it is bad.

    Of l to u about y, brought into low .. high: 1 - ((u - l) + g (max(l - y, 0) + max(y - u, 0))) / (g (high - low)) with
    g = 2 / (1 - level): Winkler's score over the worst there is. On average it is best to state the quantiles (1 - level) / 2 and
    (1 + level) / 2 of what one believes. 1 only for the point itself; 0 for the far end, and for an answer that is no interval.

    low, high: fields of the rows. The answer must be "[l, u]", "(l, u)" or "l to u", l <= u, or one number (no width).
    Cost: one reading. Gamed by nothing in itself; the range decides how much a unit counts. No verdict unless the reference is one
    number in the range, and low < high. Raises ValueError unless 0 < level < 1.

    >>> [interval_score(said, 5, 0, 10, level=0.5) for said in ("[4, 6]", "[6, 8]", "<answer>5</answer>", "who knows")]
    [0.95, 0.85, 1.0, 0.0]
    """
    if not 0 < level < 1:
        raise ValueError(f"interval_score: level must lie between 0 and 1, got {level}")
    texts = texts_of(reference)
    least, most, truth = (_number(normalise(str(x))) for x in (low, high, texts[0] if len(texts) == 1 else ""))
    if least is None or most is None or truth is None or not least <= truth <= most or least == most:
        return Verdict(0.0, valid=False, reason=f"needs low <= reference <= high, got {low!r}, {reference!r}, {high!r}"[:300])
    answer = normalise(final_answer(response) or "")[:400].strip("[]() ")
    ends = [_number(part) for part in re.split(r"\s*,\s+|\s+to\s+|\s*;\s*|(?<=\d),(?=\d+$)", answer)]
    stated = [min(max(end, least), most) for end in ends if end is not None]
    if len(stated) != len(ends) or len(ends) > 2 or (ends[0] or 0) > (ends[-1] or 0):
        return 0.0
    left, right = stated[0], stated[-1]
    worse = 2 / (1 - Fraction(level))
    loss = (right - left) + worse * (max(left - truth, Fraction(0)) + max(truth - right, Fraction(0)))
    return float(1 - loss / (worse * (most - least)))


def listed(text: str) -> list[str]:
    """What a text lists, in its order; each not empty.

    >>> listed("- red\\n- blue, and green")
    ['red', 'blue', 'green']
    """
    parts = (part.strip().lstrip("-*\u2022 ") for part in _APART.split(f" {text}"))
    return [part for part in parts if part.strip(" .\"'")]


def _chosen(text: str, choices: Sequence[str] | None) -> int | None:
    """The number of the one choice that a text names; None where that is none, or not one."""
    said = normalise(text[:2000])
    texts = [normalise(str(one)) for one in choices or ()]
    if said in texts:
        return texts.index(said) if texts.count(said) == 1 else None
    match = _LETTER.fullmatch(said)
    if match is None:
        return None
    number, rest = ord(match[1]) - ord("a"), normalise(match[2]) if match[2] else ""
    if choices is None:
        return number if not re.match(r"(?:or|and)?\W*[a-z]\b", rest) else None
    return number if number < len(texts) and rest in ("", texts[number]) else None
