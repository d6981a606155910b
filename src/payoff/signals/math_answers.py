r"""Is a mathematical answer right? Exactly one final answer is read, and compared as numbers, sets, tuples, intervals, expressions.

What is plain is decided here, with fractions and no rounding; only what is left (a sine, a nested root, an integral) goes to
Math-Verify in a process that is killed when it takes too long.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from fractions import Fraction

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.answers import Reference
from payoff.signals.math_forms import NONSENSE, Form, read, same
from payoff.signals.math_text import plain
from payoff.signals.math_verifier import VERIFIER

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)|<answer>|####|\b(?:answer|result)(?:\s+is\b\s*:?|\s*:)(?:\**)", re.IGNORECASE)
_BETWEEN = re.compile(r"[\s$,;.*()\\]*(?:\\?(?:text|quad)?\{?\s*(?:and|or)\s*\}?)?[\s$,;*\\(]*", re.IGNORECASE)
_TAKEN_BACK = re.compile(
    r"\b(?:that|this|it|which)(?:'s|\s+is|\s+was)\s+(?:all\s+)?(?:wrong|incorrect|false|a mistake|an error)\b"
    r"|\b(?:that|this|it|which)(?:'s|\s+is|\s+was)\s+not (?:right|correct|the answer|it)\b"
    r"|\bno answer\b|\bscratch that\b|\b(?:i|we) (?:take (?:it|that) back|made (?:a|an) (?:mistake|error))\b"
    r"|^\W*(?:or|alternatively|otherwise|wait|no)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?](?=\s|$|\*)|(?:,\s*|\s+)(?:because|since|as|which|so|when|where|after)\s", re.IGNORECASE)
_SAYS = re.compile(
    r"\b(?:is|are|was|were|be|equals|equal to|gives?|gets?|get|have|has|obtain|yields?|therefore|thus|hence|so)\b:?|:|⇒|=>", re.I
)
_MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_WORDY = re.compile(
    r"(?<![\\A-Za-z])(?!(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|frac|arcsin|arccos|arctan|det|max|min|gcd|lim)\b)[A-Za-z]{3,}"
)
_DENIED = re.compile(r"\b(?:not|never|instead of|rather than)\b", re.IGNORECASE)
_PLAIN = re.compile(r"(-?)(?:(\d{1,18})(?:\.(\d{1,18}))?|\\d?frac\{(\d{1,18})\}\{(\d{1,18})\})", re.ASCII)
_LONGEST = 4000


@method("math-answer", kind="grader")
def math_answer(response: str, reference: Reference, *, time_limit: float = 5.0) -> float | Verdict:
    r"""1 where the one final answer of a response equals the reference as mathematics, else 0.

    The answer is the last that is marked: \boxed{...}, <answer>...</answer>, "#### ..." or "the answer is ..."; without a mark,
    what the last line says. Boxes side by side are one answer of several parts. An answer that names two values where the reference
    has one ("122 or 126"), that contradicts itself ("60 + 62 = 123") or is taken back afterwards is wrong.

    Numbers are exact: 0.5 is 1/2, 50% is 0.5 and is 50, 0.333 is not 1/3; a unit counts only where both name one. Lists and sets
    are compared in any order, tuples and intervals in theirs, x > 3 is (3, \infty), an equation is what is proportional to it.
    A list of references: any of them will do. A reference may be a whole solution that marks its answer.

    time_limit: seconds that Math-Verify may take for an expression that cannot be decided here
    No verdict: no reference, one that cannot be read, or time, memory or the package (`payoff[text]`) lacking for the comparison.
    Raises ValueError for a time limit that is not positive.

    >>> math_answer(r"So x = 1/2, that is \boxed{\frac{2}{4}}.", "0.5"), math_answer("The answer is 122 or 126.", "122")
    (1.0, 0.0)
    >>> math_answer(r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{\sqrt2}{2}"), math_answer("7", None).reason
    (1.0, 'no reference to compare the answer with')
    """
    if not time_limit > 0:
        raise ValueError(f"math_answer: time_limit must be > 0, got {time_limit}")
    several = [reference] if isinstance(reference, str | int | float | Mapping | None) else list(reference)
    wanted = [str(one) for one in several if one == one and not isinstance(one, Mapping | list | tuple | None) and str(one).strip()]
    if not wanted:
        return Verdict(0.0, valid=False, reason="no reference to compare the answer with")
    answers = final_answers(response)
    undecided = []
    for one in wanted:
        texts, forms = _reference(one)
        found = _compare(answers, texts, forms)
        if found:
            return 1.0
        if found is None:
            undecided.append(texts[0])
    if not undecided:
        return 0.0
    value, reason = VERIFIER.ask([_latex(text) for text in answers], [_latex(text) for text in undecided], time_limit)
    if value is None:
        return Verdict(0.0, valid=False, reason=f"reference {undecided[0][:60]!r}: {reason}")
    return value


def final_answers(response: str) -> tuple[str, ...]:
    r"""The text of the one final answer, in the readings that it allows, best first; nothing where there is none.

    >>> final_answers(r"\boxed{1}? No: \boxed{2} and \boxed{3}."), final_answers("a\nSo there are 7 apples.")
    (('2 , 3',), ('7 apples', 'So there are 7 apples'))
    >>> final_answers("The answer is 5.\nNo, that is wrong."), final_answers(r"\boxed{5")
    ((), ())
    """
    response = response.rpartition("</think>")[2]
    marks = list(_BOX.finditer(response))
    if not marks:
        lines = [line for line in response[-_LONGEST:].splitlines() if line.strip(" \t*$`")]
        return _said(lines[-1]) if lines else ()
    last = marks[-1]
    kind = last[0].lower()
    if kind.startswith("\\"):
        return _boxed(response, [mark.span() for mark in marks if mark[0].startswith("\\")][-20:])
    if kind == "<answer>":
        inside, closed, after = response[last.end() :].partition("</answer>")
        return _said(inside.strip()) if closed and not _taken_back(after) else ()
    line, _, after = response[last.end() :].lstrip(" \t*").partition("\n")
    if not line.strip(" *$:") and kind.startswith(("answer", "result")):
        line, _, after = after.lstrip().partition("\n")  # "Final answer:" above the answer itself
    if _taken_back(after):
        return ()
    return _said(line) if kind != "####" else tuple(dict.fromkeys(text for text in (line.strip(), *_said(line)) if text))


def _boxed(response: str, spans: list[tuple[int, int]]) -> tuple[str, ...]:
    """The last box, with those right before it that only "and", "or" or a comma parts from it."""
    inside = _braces(response, spans[-1][1])
    if inside is None:
        return ()
    text, end = inside
    start, parts = spans[-1][0], [text]
    if _taken_back(response[end:]):
        return ()
    for a, b in reversed(spans[:-1]):
        before = _braces(response, b)
        if before is None or before[1] > start or not _BETWEEN.fullmatch(response[before[1] : start]):
            break
        if not re.search(r"and|or|,|;", response[before[1] : start], re.IGNORECASE):
            break
        parts.insert(0, before[0])
        start = a
    return (" , ".join(parts),) if text.strip() else ()


def _braces(text: str, at: int) -> tuple[str, int] | None:
    """What stands in the braces that open at a place, and where they end; None where they never close."""
    depth = 0
    for end in range(at, min(len(text), at + _LONGEST)):
        if text[end] in "{}" and text[end - 1] != "\\":
            depth += 1 if text[end] == "{" else -1
            if not depth:
                return text[at + 1 : end], end + 1
    return None


def _taken_back(after: str) -> bool:
    """Whether what follows an answer withdraws it, or offers another."""
    return bool(_TAKEN_BACK.search(after[:2000].lstrip(" .$*\n)]\\")))


def _said(line: str) -> tuple[str, ...]:
    """The answer that a sentence gives: its mathematics between dollar signs, what follows its last verb, or all of it."""
    line = line.strip().strip("*").strip()[:2000]
    if not line:
        return ()
    form = read(line)
    if form is not None and (form.kind != "words" or not _SAYS.search(line)):
        return (line,)
    cut = _SENTENCE.search(line)
    first, after = (line[: cut.start()], line[cut.end() :]) if cut else (line, "")
    if _taken_back(after):
        return ()
    spans = list(_MATH.finditer(first))
    if spans:
        start = len(spans) - 1
        while start and _BETWEEN.fullmatch(first[spans[start - 1].end() : spans[start].start()]):
            start -= 1
        text = first[spans[start].start() :]
        if start and _DENIED.search(first[spans[start - 1].end() : spans[start].start()]):
            return ()
        joined = " , ".join(next(group for group in span.groups() if group) for span in spans[start:])
        tail = first[spans[-1].end() :]
        hedged = start and re.search(r"\bor\b|\band\b|,", text)
        return (joined + (f" {tail}" if tail.strip(" .*,") else ""),) if hedged or start == len(spans) - 1 else ()
    readings = [first.strip(" *")]
    says = list(_SAYS.finditer(first))
    if says and first[says[-1].end() :].strip(" *"):
        readings.insert(0, first[says[-1].end() :].strip(" *"))
    kept = [text for text in readings if re.search(r"\d", text) or len(text) < 60]
    return tuple(dict.fromkeys(kept)) if len(kept[-1:]) and len(kept[0]) < 400 and len(kept[0].split()) < 12 else ()


@functools.lru_cache(maxsize=4096)
def _reference(text: str) -> tuple[tuple[str, ...], tuple[Form, ...]]:
    """A reference's texts and forms: as a whole, or the answer of a solution that marks it."""
    texts = final_answers(text) if _BOX.search(text) else (text.strip(),)
    texts = texts or (text.strip(),)
    # "100,200,300" is a number to some and a list to others; "1,234" is a number.
    ways = (True, False) if texts[0].count(",") > 1 else (True,)
    return texts, tuple(form for way in ways if (form := read(texts[0], thousands=way)) not in (None, NONSENSE))


def _compare(answers: tuple[str, ...], texts: tuple[str, ...], wanted: tuple[Form, ...]) -> bool | None:
    """Whether any reading of the answer is the reference; None where only algebra could tell."""
    number, other = (_plain_number(answers[0]), _plain_number(texts[0])) if answers else (None, None)
    if number is not None and other is not None:
        return number == other
    undecided = False
    for text in answers:
        if len(text) <= 1000 and plain(text) == plain(texts[0]) and plain(text):
            return True
        form = read(text)
        if "," in text and any(one.kind in ("list", "set") for one in wanted):
            listed = read(text, thousands=False)
            if listed and any(same(listed, one) for one in wanted):
                return True
        if form is None or not wanted:
            mathematical = re.search(r"\w", text) and not _WORDY.search(plain(text)) and len(text) < 400
            undecided = undecided or bool(mathematical and not _refused(text))
            continue
        found = [same(form, one) for one in wanted]
        if True in found:
            return True
        undecided = undecided or None in found
    return None if undecided else False


def _plain_number(text: str) -> Fraction | None:
    """A number written so plainly that nothing has to be parsed."""
    match = _PLAIN.fullmatch(text)
    if match is None:
        return None
    sign, whole, decimals, top, bottom = match.groups()
    if bottom is not None and not int(bottom):
        return None
    number = Fraction(int(top), int(bottom)) if bottom else Fraction(int(whole + (decimals or "")), 10 ** len(decimals or ""))
    return -number if sign else number


def _refused(text: str) -> bool:
    """Whether an answer that cannot be read leaves the choice open."""
    return bool(re.search(r"\b(?:or|and|not)\b", plain(text)))


def _latex(text: str) -> str:
    return text.strip().strip("$").strip().removesuffix(".")[:1000]
