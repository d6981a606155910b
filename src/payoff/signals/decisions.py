"""Decisions whose errors cost unlike amounts: a reward by a table of payoffs, and the policy that such a table asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.answers import final_answer, normalise
from payoff.signals.bleu import LONGEST
from payoff.signals.tags import in_order

Payoffs = Mapping[str, Mapping[str, float | int]]
HIRING: Payoffs = {"accept": {"accept": 1.0, "reject": -0.5}, "reject": {"accept": -1.0, "reject": 0.5}}


@method("resume-grpo", kind="grader")
def decision_reward(
    response: str,
    reference: str | None,
    evidence: Any = None,
    *,
    payoffs: Payoffs = HIRING,
    form: float = 0.1,
    cited: float = 0.2,
    longest: int = 400,
    length: float = 0.1,
    low: float = -2.0,
    high: float = 2.0,
) -> Verdict:
    """The payoff of a decision, and smaller parts for form, evidence and length, within bounds (reward for judging applications).

    R = payoffs[reference][decision] + form f + cited F1 - length max(0, words / longest - 1), kept within low .. high. The decision
    is the final answer, as `final_answer` finds it; one that is none of the table's has the least payoff of its row. f is 1 for
    <evidence>...</evidence><answer>...</answer> and nothing else; F1 that of the lines of evidence and the row's `evidence`.

    reference: the right decision; payoffs: {right: {decision: number}}
    evidence:  a field of the rows, the texts that should be cited; without it that part is 0
    The published description names such parts and no numbers; these are only sensible. What the table asks for is exact:
    `acceptance_threshold`. A large price of wrong acceptances makes rejecting everybody the optimum, and no accident.

    Range low .. high. Cost: one reading. Gamed by deciding alike for all where one decision is mostly right: compare with the best
    constant decision; by form and evidence, if they outweigh payoffs. The reason lists the parts. No verdict for a reference
    that the table lacks. Raises ValueError for a table without decisions or with numbers that are not finite, and low >= high.

    >>> decision_reward("<answer>accept</answer>", "reject")
    Verdict(value=-1.0, valid=True, reason='decision accept: -1; form 0, evidence 0, less 0 for length')
    >>> decision_reward("<evidence>five years of C\\nteam lead</evidence><answer>Accept</answer>", "accept", ["Team lead"]).value
    1.2333333333333334
    """
    if not low < high or not payoffs or any(not row or not all(map(math.isfinite, row.values())) for row in payoffs.values()):
        raise ValueError(f"decision_reward: needs low < high and payoffs of finite numbers, got {low}, {high} and {dict(payoffs)}")
    table = {normalise(right): {normalise(said): worth for said, worth in row.items()} for right, row in payoffs.items()}
    right = normalise(reference) if isinstance(reference, str) else None
    if right not in table:
        return Verdict(0.0, valid=False, reason=f"the reference {str(reference)[:40]!r} is none of {', '.join(payoffs)}")
    if evidence is not None and not (isinstance(evidence, list | tuple) and all(isinstance(one, str) for one in evidence)):
        return Verdict(0.0, valid=False, reason=f"evidence must be a list of texts, got {str(evidence)[:40]!r}")
    text = response[:LONGEST]
    said = final_answer(text)
    decision = normalise(said) if said is not None else None
    known = decision is not None and decision in table[right]
    worth = table[right][decision] if known else min(table[right].values())  # type: ignore[index]
    shaped = form * in_order(text, ("evidence", "answer"))
    found = cited * _agreement(text, evidence) if evidence else 0.0
    charge = length * max(0.0, len(text.split()) / longest - 1)
    shown = decision if known else "that cannot be read"
    parts = f"decision {shown}: {worth:g}; form {shaped:g}, evidence {found:g}, less {charge:g} for length"
    return Verdict(float(min(max(worth + shaped + found - charge, low), high)), reason=parts)


def acceptance_threshold(*, accept_right: float, accept_wrong: float, reject_right: float, reject_wrong: float) -> float:
    """The probability of being right to accept from which on accepting pays more: (t - b) / ((t - b) + (a - d)).

    a and b are the payoffs of accepting who should be, and who should not; t and d of rejecting who should be, and who should not.
    As b falls to minus infinity the threshold goes to 1. Only differences count: a constant per class, or a factor, changes
    nothing. Raises ValueError where being right does not pay in either class.

    >>> acceptance_threshold(accept_right=1.0, accept_wrong=-1.0, reject_right=1.0, reject_wrong=-1.0)
    0.5
    >>> round(acceptance_threshold(accept_right=1.0, accept_wrong=-10.0, reject_right=0.5, reject_wrong=-0.5), 3)
    0.875
    """
    missed, wronged = accept_right - reject_wrong, reject_right - accept_wrong
    if not (missed > 0 and wronged > 0):
        raise ValueError(f"acceptance_threshold: being right must pay more than being wrong, got gains of {missed} and {wronged}")
    return wronged / (wronged + missed)


def _agreement(text: str, evidence: Sequence[str]) -> float:
    """F1 of the lines that are cited and of those that should be, in normal form."""
    inside = text.rpartition("<evidence>")[2].partition("</evidence>")[0] if "<evidence>" in text else ""
    mine = {normalise(line.lstrip("-* ")) for line in inside.splitlines() if line.strip()}
    theirs = {normalise(one) for one in evidence if one.strip()}
    return 2 * len(mine & theirs) / (len(mine) + len(theirs)) if mine and theirs else 0.0
