"""One model that asks, answers and checks: what each of the three roles is paid (SPELL). The numbers come from the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from payoff.catalogue import method
from payoff.pipeline import Verdict

Verdicts = Sequence[Any]  # true, false or null each; what else a row holds there is no verdict
Curve = Literal["gauss", "tent", "hard"]


@method("spell", kind="grader", paper="arXiv:2509.23863")
def spell(
    role: str | None,
    success: float | int | Sequence[Any] | None = None,
    well_formed: bool | int = True,
    grounded: bool | int = True,
    verdicts: Any = None,
    rule: float | int | None = None,
    verdict: Any = None,
    *,
    curve: Curve = "gauss",
    least: float = 0.51,
    most: float = 0.99,
) -> float | Verdict:
    """What each of the three roles of one model is paid (SPELL): the reward of the row's own `role`.

    role: "questioner", "responder" or "verifier", a field of the rows; the other fields are those of `spell-questioner` (success,
          well_formed, grounded), `spell-responder` (verdicts, rule) and `spell-verifier` (verdict, verdicts, rule), whose
          formulas, ranges and warnings these are. curve: of the first; least, most: of the last

    One channel for a batch of all three; compare each role with itself, by the advantage of the same name: the path [`total`,
    `spell`]. No verdict where that role's reward has none, and for another role.

    >>> spell("questioner", success=[1, 0]), spell("responder", verdicts=[True, False, True])
    (1.0, 1.0)
    >>> spell("verifier", verdict=False, verdicts=[True, False, True]), spell("judge").reason
    (0.0, "role must be questioner, responder or verifier, got 'judge'")
    """
    if role == "questioner":
        return questioner(success, well_formed, grounded, curve=curve)
    if role == "responder":
        return responder(verdicts or (), rule)
    if role == "verifier":
        return verifier(verdict, verdicts or (), rule, least=least, most=most)
    return Verdict(0.0, valid=False, reason=f"role must be questioner, responder or verifier, got {str(role)[:40]!r}")


@method("spell-questioner", kind="grader", paper="arXiv:2509.23863")
def questioner(
    success: float | int | Sequence[Any] | None,
    well_formed: bool | int = True,
    grounded: bool | int = True,
    *,
    curve: Curve = "gauss",
) -> float | Verdict:
    """Pay a question the more, the nearer it is to being solved every second time (SPELL's questioner).

    With m the mean reward of its answers, 0 < m < 1: exp(-(m - 1/2)^2 / (2 s^2)), s = 1/6; 0 at m = 0 and m = 1. -1 for a question
    in bad form (`well_formed` false), else -0.5 for one that can be answered without its documents (`grounded` false).

    success: the row's m, or the list of rewards it is the mean of (None: left out). No verdict without any, or outside 0..1
    curve:   "gauss"; "tent": 1 - 2 |m - 1/2|; "hard": 1 - m, which drifts to questions nobody can solve. All 0 at m = 0 and 1
    Range -1..1. Gamed by questions whose answer is a toss of a coin. Compare questions over the batch of their task, not in a
    group: `spell`, not `grpo`.

    >>> questioner(0.5), round(questioner([1, 0, 0, 0]), 4), questioner(1.0), questioner(0.5, grounded=False)
    (1.0, 0.3247, 0.0, -0.5)
    """
    if not well_formed:
        return -1.0
    if not grounded:
        return -0.5
    known = [x for x in success if x is not None] if isinstance(success, Sequence) else [] if success is None else [success]
    if not known or not all(isinstance(x, int | float) and 0 <= x <= 1 for x in known):
        return Verdict(0.0, valid=False, reason="no rewards of answers in 0..1")
    m = math.fsum(known) / len(known)
    if m in (0, 1):
        return 0.0
    return {"gauss": math.exp(-18 * (m - 0.5) ** 2), "tent": 1 - 2 * abs(m - 0.5), "hard": 1 - m}[curve]


@method("spell-responder", kind="grader", paper="arXiv:2509.23863")
def responder(verdicts: Any, rule: float | int | None = None) -> float | Verdict:
    """Pay an answer that a rule or most of its verifiers find right: max(rule, majority) (SPELL's responder).

    verdicts: what the verifiers said of this answer, true or false (1 or 0); None where what they said could not be read, which is
              left out; as many for as against: what the first of them said
    rule:     the row's score by a rule, 0..1; None or none: the majority alone. No readable verdict counts as false

    Range 0..1. The verifiers can raise what the rule denies, never lower what it grants: false positives of both add up.
    No verdict where there is neither a rule's score nor a verifier, and for a rule's score outside 0..1.

    >>> responder([True, False, True]), responder([None, None], rule=0.0), responder([False, True]), responder([False], rule=1.0)
    (1.0, 0.0, 0.0, 1.0)
    """
    if why := _fault(verdicts, rule):
        return Verdict(0.0, valid=False, reason=why)
    if rule is None and not len(verdicts):
        return Verdict(0.0, valid=False, reason="neither a rule's score nor a verifier")
    return float(max(rule or 0.0, bool(majority(verdicts))))


@method("spell-verifier", kind="grader", paper="arXiv:2509.23863")
def verifier(
    verdict: Any,
    verdicts: Any,
    rule: float | int | None = None,
    *,
    least: float = 0.51,
    most: float = 0.99,
) -> float | Verdict:
    """Pay a verifier for agreeing with the majority: 1 where it does, 0 where not, -1 where it cannot be read (SPELL's verifier).

    verdict:  what it said; verdicts: what all verifiers of the answer said, itself among them; None: not readable
    rule:     where the row has the rule's score of the answer, only majorities that agree with it (at least 1/2 or not) teach

    No verdict, so that the row takes part in nothing, where the share of readable verdicts that agree with the majority lies
    outside `least`..`most`: a tie decides nothing, and where all agree there is nothing to compare. That filter, and the rule, are
    all that keeps a model from learning to agree with itself.

    >>> verifier(True, [True, True, False]), verifier(False, [True, True, False]), verifier(None, [True, True, False, None])
    (1.0, 0.0, -1.0)
    >>> verifier(True, [True, True]).reason
    'the verifiers agree to 100 %, which teaches nothing'
    """
    if why := _fault(verdicts, rule, verdict):
        return Verdict(0.0, valid=False, reason=why)
    said = [bool(one) for one in verdicts if one is not None]
    chosen = majority(verdicts)
    if chosen is None:
        return Verdict(0.0, valid=False, reason="no verdict that can be read")
    share = said.count(chosen) / len(said)
    if not least <= share <= most:
        return Verdict(0.0, valid=False, reason=f"the verifiers agree to {100 * share:.0f} %, which teaches nothing")
    if rule is not None and (rule >= 0.5) != chosen:
        return Verdict(0.0, valid=False, reason="the majority contradicts the rule")
    return -1.0 if verdict is None else float(bool(verdict) == chosen)


def majority(verdicts: Verdicts) -> bool | None:
    """What most of the readable verdicts say; of as many for as against what the first of them says; None where there is none.

    >>> majority([1, 0, 0]), majority([None, True, False]), majority([None])
    (False, True, None)
    """
    said = [bool(one) for one in verdicts if one is not None]
    if not said:
        return None
    return said[0] if 2 * sum(said) == len(said) else 2 * sum(said) > len(said)


def _fault(verdicts: Any, rule: Any, *one: Any) -> str:
    """What is wrong with a row's verdicts, `one` of its own and its rule's score; nothing where they are what they should be."""
    if not isinstance(verdicts, list | tuple):
        return f"verdicts must be a list, got {str(verdicts)[:40]!r}"
    # "no" is no verdict, and not false; nor is NaN, and not true.
    if odd := [said for said in (*verdicts, *one) if not (said is None or (isinstance(said, int | float) and said in (0, 1)))]:
        return f"a verdict is true, false or null, got {str(odd[0])[:40]!r}"
    if rule is not None and not (isinstance(rule, int | float) and 0 <= rule <= 1):
        return f"the rule's score must lie in 0..1, got {str(rule)[:40]}"
    return ""
