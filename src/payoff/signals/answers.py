"""Is the answer right? Graders of one rollout that compare what it finally says with a reference.

They take text and give 1.0 or 0.0. A response without a recognisable answer is wrong; a reference that is missing, or that the
grader cannot read, is no fault of the policy and gives no verdict.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from payoff.catalogue import method
from payoff.pipeline import Verdict

# An object is no answer: its keys are not references, and nothing else of it is known to be one.
Reference = str | int | float | Sequence[Any] | Mapping[str, Any] | None

_BOX = "\\boxed"
_TAG, _END_TAG = "<answer>", "</answer>"
_SAID = re.compile(r"####|\banswer(?: is ?:?| ?:)", re.IGNORECASE)
_AROUND = " \"'`$*"
# Digits are bounded, so that no answer can make its reader compute a number with a million of them.
_NUMBER = re.compile(
    r"([+-]?)\s*(?:(\d{1,3}(?:,\d{3}){1,30}|\d{1,100})(\.\d{0,100})?|(\.\d{1,100}))(?:e([+-]?\d{1,3})|\s*/\s*(\d{1,100}))?",
    re.ASCII | re.IGNORECASE,
)


@method("answer-match", kind="grader")
def answer_match(response: str, reference: Reference, *, pattern: str | None = None, tolerance: float = 0.0) -> float | Verdict:
    """1 where the response's final answer is the reference, as a number or as normalised text, else 0.

    The answer is what `final_answer` finds; a reference that marks its answer in the same way, such as a whole solution, is read
    in the same way. Two numbers are compared as exact fractions ("1,000.0" is 1e3, "0.5" is 1/2, "0.33" is not 1/3); anything
    else after `normalise`. Several references: any of them will do.

    pattern:   a regular expression for the answer, instead of the usual marks (see `final_answer`)
    tolerance: how far a number may be off, as a share of the reference
    No reference, or an empty one: no verdict. Raises ValueError for a negative tolerance.

    >>> answer_match("3 + 4 = 7, so the answer is 7.", "7"), answer_match("It is 8", "7")
    (1.0, 0.0)
    """
    if tolerance < 0:
        raise ValueError(f"answer_match: tolerance must be at least 0, got {tolerance}")
    wanted = _references(reference)
    if not wanted:
        return Verdict(0.0, valid=False, reason="no reference to compare the answer with")
    answer = final_answer(response, pattern=pattern)
    wanted = [final_answer(one, pattern=pattern) or one for one in wanted]
    return float(answer is not None and any(same_answer(answer, one, tolerance=tolerance) for one in wanted))


def final_answer(response: str, *, pattern: str | None = None) -> str | None:
    r"""The last answer that a response marks as such, stripped; None where it gives none.

    Marks are \boxed{...}, <answer>...</answer>, "#### ..." and "answer is ..." or "answer: ..." to the end of the line; whichever
    stands last decides. A last mark that is never closed is no answer: an earlier one does not take its place. A response without
    any mark is its own answer, whole.
    pattern: a regular expression instead; its last match decides, the first group of it where it has one. No match: None.

    >>> final_answer("First \\boxed{1}, no: \\boxed{\\frac{1}{2}}"), final_answer("#### 42"), final_answer("7")
    ('\\frac{1}{2}', '42', '7')
    >>> final_answer("3-7=6;#6.", pattern=r"#(\d)\.$")
    '6'
    """
    if pattern is not None:
        matches = list(re.finditer(pattern, response))
        if not matches:
            return None
        return (matches[-1].group(1 if matches[-1].re.groups else 0) or "").strip() or None
    said = [m.span() for m in _SAID.finditer(response)]
    places = {"box": response.rfind(_BOX), "tag": response.rfind(_TAG), "said": said[-1][0] if said else -1}
    last = max(places, key=lambda mark: places[mark])
    if places[last] < 0:
        answer = response
    elif last == "box":
        answer = _braces(response[places["box"] + len(_BOX) :].lstrip())
    elif last == "tag":
        inside, closed, _ = response[places["tag"] + len(_TAG) :].partition(_END_TAG)
        answer = inside if closed else ""
    else:
        answer = response[said[-1][1] :].split("\n", 1)[0]
    return answer.strip() or None


def same_answer(answer: str, reference: str, *, tolerance: float = 0.0) -> bool:
    """Whether two answers are the same number, or, where either is none, the same text after `normalise`.

    tolerance: how far a number may be off, as a share of the reference.

    >>> same_answer("1,000", "1e3"), same_answer("1/2", ".5"), same_answer("The  Hague", "the hague."), same_answer("0.33", "1/3")
    (True, True, True, False)
    """
    a, b = normalise(answer), normalise(reference)
    if a == b:
        return True
    x, y = _number(a), _number(b)
    return x is not None and y is not None and abs(x - y) <= Fraction(tolerance) * abs(y)


def normalise(text: str) -> str:
    """Text without what does not matter: Unicode composition, case, runs of space, quotes and dollar signs around, a last stop.

    Text of nothing else is left as it is.

    >>> normalise('  "New   York." '), normalise("$42$")
    ('new york', '42')
    """
    text = " ".join(unicodedata.normalize("NFC", text).casefold().split()).replace("\u2212", "-")
    return text.lstrip(_AROUND).rstrip(_AROUND + ".") or text


def _references(reference: Reference) -> list[str]:
    several = [reference] if isinstance(reference, str | int | float | Mapping | None) else reference
    # NaN is how tables write that there is nothing.
    return [str(one) for one in several if one == one and not isinstance(one, Mapping | list | tuple | None) and str(one).strip()]


def _number(text: str) -> Fraction | None:
    """The number that a whole text is; None for any other text, and for numbers too long to be an answer."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, whole, decimals, bare, exponent, below = match.groups()
    digits = (whole or "0").replace(",", "") + (bare or decimals or "")
    number = Fraction(digits.removesuffix("."))
    if exponent:
        number *= Fraction(10) ** int(exponent)
    if below:
        if not int(below):
            return None
        number /= int(below)
    return -number if sign == "-" else number


def _braces(text: str) -> str:
    """What stands in the balanced braces that text begins with; nothing where it does not, or where they never close."""
    depth = 0
    for end, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth <= 0:
            return text[1:end]
    return ""
