"""Does a response know what it knows? Graders of a stated confidence by proper scoring rules, and of owning up to not knowing.

A confidence stands between <confidence> tags, after the answer it is about; what is right is decided by another grader, by name.
The logarithmic score is not here on purpose: it has no lower bound, so that with it answers known to be wrong beat doubtful ones.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.catalogue import find, method
from payoff.pipeline import Verdict
from payoff.signals.answers import Reference, final_answer, normalise

RULES = ("brier", "spherical", "threshold")
_OPEN, _CLOSE = "<confidence>", "</confidence>"
# Digits are bounded, so that no confidence can be long to read or out of the range of a float.
_SHARE = re.compile(r"\s*\+?(\d{1,20}(?:\.\d{0,40})?|\.\d{1,40})(e[+-]?\d{1,2})?\s*(%?)\s*", re.ASCII | re.IGNORECASE)
_NOT_KNOWN = frozenset(
    """i don't know|i do not know|i dont know|don't know|do not know|idk|i'm not sure|i am not sure|not sure|unsure|unknown
    |i have no idea|no idea|i cannot answer|i can't answer|cannot answer|i cannot answer this question|i can't answer this question
    |unanswerable|not answerable|cannot be determined|it cannot be determined|not enough information|insufficient information
    |i don't have enough information|i do not have enough information|n/a""".replace("\n", "")
    .replace("    |", "|")
    .split("|")
)


@method("rlcr", kind="grader", paper="arXiv:2507.16806")
def rlcr(
    response: str,
    reference: Reference,
    *,
    rule: str = "brier",
    weight: float = 1.0,
    threshold: float = 0.5,
    correct: str = "answer-match",
) -> float | Verdict:
    """weight * c + S(q, c): being right, and knowing whether one is (RLCR): 0 where no confidence can be read.

    c is what the grader `correct` gives to the text before the last <confidence> tag, q the number in that tag ("0.8", "80%"), S a
    bounded proper score in 0..1, see `scoring_rule`. With p the chance that the chosen answer is right, the best q is p, and what
    is then earned, V(p) with V' = weight + S(p, 1) - S(p, 0), rises with p: the best answer and an honest confidence go together.
    With the Brier score it is the paper's c - (q - c)^2, plus 1, so that an unreadable confidence is never worth having.

    rule:      "brier", "spherical" or "threshold"
    weight:    of being right; at least 1 for the first two rules, at least 0 for "threshold": below, an answer known to be wrong
               is worth more than a doubtful one
    threshold: of "threshold": a confidence from there on is a claim, one below none
    correct:   a registered grader of `response` and `reference`

    Range 0 .. weight + 1. Cost: that of `correct`. Gamed by nothing in itself, as the score is proper; by all that games `correct`;
    and a constant answer with a constant confidence is paid as calibrated, which it is. Do not divide advantages by the group's
    spread: that re-weights the prompts, and the score is proper no more.
    No verdict where `correct` gives none. Raises ValueError for another rule, a weight that is too small or infinite, a threshold
    outside 0..1, LookupError for an unknown grader.

    >>> [rlcr(f"<answer>{a}</answer><confidence>0.9</confidence>", "7") for a in (7, 8)]
    [1.99, 0.18999999999999995]
    >>> rlcr("<answer>7</answer><confidence>very</confidence>", "7")
    0.0
    """
    _check_rule("rlcr", rule, threshold)
    least = 0.0 if rule == "threshold" else 1.0
    if not least <= weight < math.inf:
        raise ValueError(f"rlcr: weight must be a number from {least:g} on for the {rule} score, got {weight}")
    answer, q = split_confidence(response)
    right = graded(correct, answer, reference)
    if isinstance(right, Verdict):
        return right
    return 0.0 if q is None else weight * right + scoring_rule(q, right, rule=rule, threshold=threshold)


@method("confidence-score", kind="grader", paper="arXiv:2507.16806")
def confidence_score(
    response: str, reference: Reference, *, rule: str = "brier", threshold: float = 0.5, correct: str = "answer-match"
) -> float | Verdict:
    """S(q, c): how well a stated confidence fits being right, in 0..1, without pay for being right; 0 where it cannot be read.

    For run files in which being right is a channel of its own: give that channel at least the weight of this one. Alone it is
    gamed by answers known to be wrong with confidence 0, which score 1. Fields, options and errors are those of `rlcr`.

    >>> confidence_score("<answer>8</answer> <confidence>0</confidence>", "7")
    1.0
    """
    _check_rule("confidence_score", rule, threshold)
    answer, q = split_confidence(response)
    right = graded(correct, answer, reference)
    if isinstance(right, Verdict):
        return right
    return 0.0 if q is None else scoring_rule(q, right, rule=rule, threshold=threshold)


@method("stated-confidence", kind="grader")
def stated_confidence(response: str) -> float | Verdict:
    """The confidence that a response states, in 0..1; no verdict where it states none. To watch, not to train on.

    >>> stated_confidence("7 <confidence>85%</confidence>"), stated_confidence("7, surely").valid
    (0.85, False)
    """
    q = split_confidence(response)[1]
    return Verdict(0.0, valid=False, reason="no confidence between 0 and 1 is stated") if q is None else q


@method("extreme-confidence", kind="grader", paper="arXiv:2507.16806")
def extreme_confidence(response: str, *, margin: float = 0.01) -> float | Verdict:
    """1 where the stated confidence is nearer than `margin` to 0 or 1, else 0; no verdict where none is stated. To watch.

    Its mean is the share of answers that claim to be certain (RLCR logs it beside the mean of `stated-confidence`): training on
    being right alone drives it up, and a policy that says 1 everywhere has nothing left to be calibrated by. Give the channel no
    path in the terms. Raises ValueError for a margin outside (0, 1/2].

    >>> [extreme_confidence(f"7 <confidence>{q}</confidence>") for q in ("0", "0.01", "0.5", "99.5%")]
    [1.0, 0.0, 0.0, 1.0]
    """
    if not 0 < margin <= 0.5:
        raise ValueError(f"extreme_confidence: margin must lie in (0, 1/2], got {margin}")
    q = stated_confidence(response)
    return q if isinstance(q, Verdict) else float(min(q, 1 - q) < margin)


@method("truthrl", kind="grader", paper="arXiv:2509.25760")
def truthrl(
    response: str,
    reference: Reference,
    *,
    right: float = 1.0,
    abstain: float = 0.0,
    wrong: float = -1.0,
    pattern: str | None = None,
    correct: str = "answer-match",
) -> float | Verdict:
    """`right` for a right answer, `abstain` for "I don't know", `wrong` for anything else (TruthRL's ternary reward).

    Answering pays from p > (abstain - wrong) / (right - wrong) on, p being the chance to be right: 1/2 as it stands, and
    (1 + a) / 2 for abstain = a. A grader that misses the share f of right answers moves that to (1 + a) / (2 (1 - f)): one that
    is too strict teaches silence. Not knowing is looked for before being right, and only where it is the whole final answer: "I
    don't know, perhaps 7" is an answer. Where the reference itself says that nobody knows, abstaining is right and answering wrong.

    pattern: a regular expression that a final answer which owns up to not knowing matches as a whole, any case; None: usual phrases
    correct: a registered grader of `response` and `reference`, which pays 0 to 1; from 1/2 on is right

    Range: the three numbers. Cost: that of `correct`. Gamed by abstaining everywhere where few answers are right: watch the share
    of abstentions next to that of right answers (`truthfulness`). No verdict without a reference, or where `correct` gives none.
    Raises ValueError unless wrong <= abstain <= right and wrong < right.

    >>> [truthrl(said, "Paris") for said in ("Paris", "I don't know.", "Rome", "I don't know, Paris?")]
    [1.0, 0.0, -1.0, -1.0]
    """
    if not -math.inf < wrong <= abstain <= right < math.inf or wrong == right:
        raise ValueError(f"truthrl: wrong <= abstain <= right and wrong < right must hold, got {wrong}, {abstain}, {right}")
    several = [reference] if reference is None or isinstance(reference, str | int | float) else list(reference)
    wanted = [str(one) for one in several if one is not None and str(one).strip()]
    if not wanted:
        return Verdict(0.0, valid=False, reason="no reference to compare the answer with")
    if not_knowing(response, pattern=pattern):
        return right if any(not_knowing(one, pattern=pattern) for one in wanted) else abstain
    if all(not_knowing(one, pattern=pattern) for one in wanted):
        return wrong
    share = graded(correct, response, reference)
    if isinstance(share, Verdict):
        return share
    return right if share >= 0.5 else wrong


def scoring_rule(q: float, c: float, *, rule: str = "brier", threshold: float = 0.5) -> float:
    """A proper score S(q, c) in 0..1 of a confidence q for something that turned out as c, 1 or 0; more is better.

    "brier":     1 - (q - c)^2
    "spherical": q / |(q, 1 - q)| for c = 1, (1 - q) / |(q, 1 - q)| for c = 0
    "threshold": for q >= threshold c itself, else `threshold`: answering only when it is worth it; proper, though not strictly so

    For c between 0 and 1, c S(q, 1) + (1 - c) S(q, 0): what is expected. If c is 1 with chance p, the mean over c is greatest at
    q = p: p (1 - p) below 1 for Brier, |(p, 1 - p)| for spherical, max(p, threshold).

    Raises ValueError for another rule or a threshold outside 0..1.

    >>> [round(scoring_rule(0.75, c, rule=rule), 4) for rule in RULES for c in (1.0, 0.0)]
    [0.9375, 0.4375, 0.9487, 0.3162, 1.0, 0.0]
    """
    _check_rule("scoring_rule", rule, threshold)
    if rule == "brier":
        yes, no = 1 - (1 - q) ** 2, 1 - q**2
    elif rule == "spherical":
        norm = math.hypot(q, 1 - q)
        yes, no = q / norm, (1 - q) / norm
    else:
        yes, no = (1.0, 0.0) if q >= threshold else (threshold, threshold)
    return c * yes + (1 - c) * no


def split_confidence(response: str) -> tuple[str, float | None]:
    """What stands before the last <confidence> tag, and the number in it; None for one that is not closed or not in 0..1.

    >>> split_confidence("7<confidence>0.1</confidence> no <confidence> 60% </confidence>")
    ('7<confidence>0.1</confidence> no ', 0.6)
    >>> [split_confidence(f"<confidence>{q}</confidence>")[1] for q in ("nan", "1e400", "-0", "1.5", "1e-3", "")]
    [None, None, None, None, 0.001, None]
    """
    before, found, rest = response.rpartition(_OPEN)
    if not found:
        return response, None
    inside, closed, _ = rest.partition(_CLOSE)
    match = _SHARE.fullmatch(inside) if closed else None
    if match is None:
        return before, None
    number = float(match[1] + (match[2] or "")) / (100 if match[3] else 1)
    return before, number if number <= 1 else None


def not_knowing(response: str, *, pattern: str | None = None) -> bool:
    """Whether the whole final answer of a response is that it does not know; options as of `truthrl`.

    >>> not_knowing("Hard. <answer>I don\u2019t know</answer>"), not_knowing("I don't know. 7")
    (True, False)
    """
    said = final_answer(response)
    if said is None:
        return False
    said = normalise(said[:1000]).replace("\u2019", "'")
    return re.fullmatch(pattern, said, re.IGNORECASE) is not None if pattern is not None else said.rstrip(" .!") in _NOT_KNOWN


def graded(correct: str, response: str, reference: Reference) -> float | Verdict:
    """What another grader, by its registered name, gives to a response: a number in 0..1, or a verdict that is none, and why.

    Raises LookupError for an unknown grader.

    >>> graded("answer-match", "7", "7"), graded("math-answer", "7", None).valid
    (1.0, False)
    """
    said = find(correct, "grader")(response=response, reference=reference)
    if isinstance(said, Verdict) and not said.valid:
        return Verdict(0.0, valid=False, reason=said.reason or "no verdict on the answer")
    value = said.value if isinstance(said, Verdict) else said
    if value is None:
        return Verdict(0.0, valid=False, reason="no verdict on the answer")
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        return Verdict(0.0, valid=False, reason=f"whether the answer is right must be a number in 0..1, got {str(value)[:60]}")
    return float(value)


class Calibration(NamedTuple):
    """How well confidences fit: `error` (expected calibration error), `brier`, `auroc` (None with one kind only), `accuracy`."""

    error: float
    brier: float
    auroc: float | None
    accuracy: float


def calibration(
    q: Float[Tensor, " N"], c: Float[Tensor, " N"], *, weight: Float[Tensor, " N"] | None = None, bins: int = 10
) -> Calibration:
    """Of confidences q and outcomes c in 0..1, each counted `weight` times: sums of weights, so exact distributions will do.

    error:  sum over equal bins of q of (weight of bin) |mean q - mean c|; q = 1 belongs to the last
    brier:  mean (q - c)^2 where c is 0 or 1; for shares c of being right, the mean that is expected: c (1 - q)^2 + (1 - c) q^2
    auroc:  the chance that a right one has the higher q than a wrong one, ties counted half
    Raises ValueError for numbers outside 0..1, no weight at all, and fewer than one bin.

    >>> calibration(torch.tensor([0.9, 0.9, 0.2]), torch.tensor([1.0, 0.0, 0.0]), bins=2)
    Calibration(error=0.33333..., brier=0.28666..., auroc=0.75, accuracy=0.33333...)
    """
    w = torch.ones_like(q, dtype=torch.float64) if weight is None else weight.double()
    q, c = q.double(), c.double()
    if bins < 1 or not bool(((q >= 0) & (q <= 1) & (c >= 0) & (c <= 1)).all()) or not float(w.sum()) > 0:
        raise ValueError("calibration: q and c must lie in 0..1, weights must not sum to 0, and bins must be at least 1")
    w = w / w.sum()
    place = (q * bins).long().clamp(max=bins - 1)
    error = torch.zeros(bins, dtype=torch.float64).index_add(0, place.cpu(), (w * (q - c)).cpu()).abs().sum()
    brier = (w * (c * (1 - q).square() + (1 - c) * q.square())).sum()
    accuracy = (w * c).sum()
    return Calibration(float(error), float(brier), _auroc(q, w * c, w * (1 - c)), float(accuracy))


def truthfulness(
    ternary: Float[Tensor, " N"], known: Bool[Tensor, " N"], *, weights: tuple[float, float, float] = (1.0, 0.0, 1.0)
) -> dict[str, float]:
    """Shares of right, abstaining and wrong answers from ternary rewards of +1, 0, -1, and w1 right + w2 abstains - w3 wrong.

    weights: w1, w2, w3; right minus wrong as it stands. Raises ValueError where nothing is known, or for other numbers.

    >>> truthfulness(torch.tensor([1.0, 1.0, 0.0, -1.0]), torch.ones(4, dtype=torch.bool))
    {'right': 0.5, 'abstains': 0.25, 'wrong': 0.25, 'truthfulness': 0.25}
    """
    said = ternary[known]
    shares = [float((said == one).double().mean()) if len(said) else 0.0 for one in (1, 0, -1)]
    if abs(sum(shares) - 1) > 1e-9:
        raise ValueError("truthfulness: needs at least one known reward, each +1, 0 or -1")
    total = weights[0] * shares[0] + weights[1] * shares[1] - weights[2] * shares[2]
    return {"right": shares[0], "abstains": shares[1], "wrong": shares[2], "truthfulness": total}


def _auroc(q: Float[Tensor, " N"], right: Float[Tensor, " N"], wrong: Float[Tensor, " N"]) -> float | None:
    """From weights of being right and wrong at each q."""
    level = q.unique(return_inverse=True)[1].cpu()
    up = torch.zeros(int(level.max()) + 1, dtype=torch.float64).index_add(0, level, right.cpu())
    down = torch.zeros_like(up).index_add(0, level, wrong.cpu())
    both = float(up.sum() * down.sum())
    return float((up * (down.cumsum(0) - down / 2)).sum()) / both if both > 0 else None


def _check_rule(name: str, rule: str, threshold: float) -> None:
    if rule not in RULES:
        hint = "; the logarithmic score has no lower bound, so that knowingly wrong answers beat doubtful ones"
        raise ValueError(f"{name}: rule must be one of {', '.join(RULES)}, got {rule!r}{hint if rule.startswith('log') else ''}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"{name}: threshold must lie in 0..1, got {threshold}")
