"""What a signal read in a row before it judged: the answer it took for the final one, a confidence, boxes, phrases.

For people who look at single rows; a grader with a reason of its own says more, and nothing here is called while training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from payoff.signals.answers import final_answer
from payoff.signals.bleu import LONGEST, _translated
from payoff.signals.boxes import box_of, read_items
from payoff.signals.calibration import not_knowing, split_confidence
from payoff.signals.format import think_format
from payoff.signals.label_free import _flags
from payoff.signals.math_answers import final_answers
from payoff.signals.mixed import _last
from payoff.signals.patterns import _THOUGHT, PHRASES
from payoff.signals.reader import chosen_letter
from payoff.signals.tags import in_order
from payoff.signals.tool_calls import toolrl_calls, toolrl_format

Row = Mapping[str, Any]
_SHOWN = 80  # characters of what was read


def what_was_read(name: str, row: Row, options: Mapping[str, Any] | None = None) -> str:
    """A sentence on what the grader of this name took from a row; "" for graders of which nothing is known, and for odd rows.

    options: those that are bound to the grader, of which `pattern` and `names` change what is read

    >>> what_was_read("answer-match", {"response": "Six? The answer is 7."})
    "read as the final answer: '7.'"
    >>> what_was_read("rlcr", {"response": "<answer>7</answer> I am sure"})
    "read as the final answer: '7', without a confidence in 0..1"
    """
    reader = _READERS.get(name)
    if reader is None:
        return ""
    try:
        return reader(row, options or {})
    except (TypeError, AttributeError, KeyError, ValueError):  # a row that holds something else: the verdict says so
        return ""


def _answer(row: Row, options: Mapping[str, Any]) -> str:
    return _as_final(final_answer(row["response"], pattern=options.get("pattern")))


def _mathematics(row: Row, options: Mapping[str, Any]) -> str:
    found = final_answers(row["response"])
    return _as_final(found[0] if found else None)


def _number(row: Row, options: Mapping[str, Any]) -> str:
    last = _last(row["response"])
    return "no number was found" if last is None else f"the last number is {_cut(last)}"


def _confidence(row: Row, options: Mapping[str, Any]) -> str:
    before, q = split_confidence(row["response"])
    stated = "without a confidence in 0..1" if q is None else f"with confidence {q:g}"
    return f"{_as_final(final_answer(before))}, {stated}"


def _ternary(row: Row, options: Mapping[str, Any]) -> str:
    if not_knowing(row["response"], pattern=options.get("pattern")):
        return "it says that it does not know"
    return _answer(row, {})


def _inside(row: Row, options: Mapping[str, Any]) -> str:
    said = row["response"]
    inside = said.rpartition("<answer>")[2].partition("</answer>")[0] if "<answer>" in said else said
    form = "in form" if in_order(said, ("think", "answer")) else "not in form"
    return f"{_mathematics({'response': inside}, {})}, {form}"


def _tags(row: Row, options: Mapping[str, Any]) -> str:
    names = options.get("names", ("think", "answer"))
    odd = [
        f"{mark} comes {count} times"
        for name in names
        for mark in (f"<{name}>", f"</{name}>")
        if (count := row["response"].count(mark)) != 1
    ]
    return ", ".join(odd)


def _thinks(row: Row, options: Mapping[str, Any]) -> str:
    said = row["response"]
    return "" if think_format(said) else f"it begins with {_cut(said[:20])!r}, opens <think> {said.count('<think>')} times"


def _boxes(row: Row, options: Mapping[str, Any]) -> str:
    items = read_items(row["response"], salvage=True)
    if items is None:
        return "no JSON with boxes was found"
    return f"{sum(box_of(item) is not None for item in items)} boxes were read, of {len(items)} entries"


def _phrases(row: Row, options: Mapping[str, Any]) -> str:
    said = row["response"]
    inside = _THOUGHT.search(said)
    text = " ".join((inside[1] if inside else said)[:LONGEST].lower().split())
    listed = options.get("phrases", PHRASES)
    found = [phrase for phrase in listed if re.search(rf"(?<!\w){re.escape(phrase.lower())}(?!\w)", text)]
    return f"phrases found: {', '.join(found)}" if found else "none of the phrases was found"


def _calls(row: Row, options: Mapping[str, Any]) -> str:
    said, wanted = row["response"], row["reference"]
    form, calls = toolrl_format(said, wanted), toolrl_calls(said, wanted, **options)
    return f"form {form:g}, calls {calls.value:g}"  # type: ignore[str-format,str-bytes-safe]


def _translation(row: Row, options: Mapping[str, Any]) -> str:
    said = _translated(row["response"])
    return f"read as the translation: {_cut(said)!r}" if said else "no translation in form was found"


def _surrogate(row: Row, options: Mapping[str, Any]) -> str:
    thinks, readable = _flags(row["response"])
    return f"{'thinks' if thinks else 'does not think'} in tags, {'a' if readable else 'no'} readable answer"


def _letters(row: Row, options: Mapping[str, Any]) -> str:
    return "the reader chose " + ", ".join(str(None if one is None else chosen_letter(one)) for one in row["reader_answers"])


def _as_final(said: str | None) -> str:
    return "no final answer was found" if said is None else f"read as the final answer: {_cut(said)!r}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


_READERS: Mapping[str, Callable[[Row, Mapping[str, Any]], str]] = {
    **dict.fromkeys(("answer-match", "choice", "medvlm-r1", "label-set", "med-r1", "number-in-range", "interval-score"), _answer),
    **dict.fromkeys(("router-r1-outcome", "token-f1", "bmas", "mixed-r1"), _answer),
    **dict.fromkeys(("majority-agreement", "self-consistency", "co-reward"), _answer),
    "math-answer": _mathematics,
    "rlsp": _mathematics,
    "last-number": _number,
    "rlcr": _confidence,
    "confidence-score": _confidence,
    "truthrl": _ternary,
    "rl-with-cold-start": _inside,
    "tags": _tags,
    "think-format": _thinks,
    **dict.fromkeys(("vlm-r1-iou", "vlm-r1-format", "vlm-r1", "vlm-r1-weighted", "vision-r1", "affordance-r1"), _boxes),
    "reasoning-pattern-reward": _phrases,
    "toolrl": _calls,
    "mt-r1-zero": _translation,
    "format-surrogate": _surrogate,
    "caprl": _letters,
}
