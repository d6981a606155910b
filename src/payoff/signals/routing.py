"""Answers that were put together by asking other models: the form of such a transcript, what it came to, and what it cost."""

from __future__ import annotations

import re
import string
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.answers import Reference, final_answer
from payoff.signals.bleu import LONGEST, texts_of

_TAG = re.compile(r"<(/?)(think|search|information|answer)>")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PLACEHOLDER = re.compile(r"your[- _]?query|llm[- _]?name|model[- _]?name|\W*", re.IGNORECASE)


@method("router-r1-format", kind="grader", paper="arXiv:2506.09033")
def router_format(response: str, *, models: Sequence[str] = ()) -> Verdict:
    """0 for a transcript in the form of Router-R1, -1 with the reason for any other.

    <think> ... </think>, calls <search>MODEL: QUERY</search> each with an <information> block, and one <answer> at the end. Wrong
    are: tags that nest or do not close, no thought, not exactly one answer, something before the first thought or after the answer,
    as many information blocks as there are not calls, a call without model, without query or with the prompt's own placeholders.

    models: the names that may be called; empty: any. Case and spaces around do not count.
    Range -1 or 0, in one pass. An empty thought is well-formed; so is an answer of nothing, which the outcome has to catch.

    >>> router_format("<think>easy</think><answer>4</answer>")
    Verdict(value=0.0, valid=True, reason='')
    >>> asked = "<think>hm</think><search>Owl: 2+2</search><information>4</information><answer>4</answer>"
    >>> router_format(asked, models=["Elk"]).reason
    "format: 'Owl' is no model that can be asked"
    """
    why = _fault(response, {name.strip().casefold() for name in models})
    return Verdict(-1.0 if why else 0.0, valid=True, reason=f"format: {why}" if why else "")


@method("router-r1-outcome", kind="grader", paper="arXiv:2506.09033")
def router_outcome(response: str, reference: Reference, *, measure: Literal["exact", "f1"] = "exact") -> float | Verdict:
    """Whether the final answer is a reference, or how much of its words it has, as questions and answers are scored (Router-R1).

    Texts in lower case, without ASCII punctuation and without a, an and the. "exact": 1 where the two are the same, else 0. "f1":
    2 m / (words of both) with m in common, each as often as in both; 0 where either is yes, no or noanswer and they differ. The
    best of several references; the answer is what `final_answer` finds.

    Range 0..1. Cost: linear, 0.2 ms per 100 words. "f1" pays lists of likely words, and with `router-r1` the least overlap earns
    all that being cheap does. A minus is punctuation: -5 is 5 here, and numbers are for `answer-match`. No answer: 0. No verdict
    without a reference. Raises ValueError for another measure.

    >>> router_outcome("<answer>The Eiffel Tower.</answer>", "eiffel tower"), router_outcome("x b", "b c", measure="f1")
    (1.0, 0.5)
    >>> router_outcome("<answer>yes, of course</answer>", "yes", measure="f1")
    0.0
    """
    if measure not in ("exact", "f1"):
        raise ValueError(f'router_outcome: measure must be "exact" or "f1", got {measure!r}')
    wanted = [_words(one) for one in texts_of(reference)]
    if not wanted:
        return Verdict(0.0, valid=False, reason="no reference to compare the answer with")
    answer = final_answer(response)
    if answer is None:
        return 0.0
    said = _words(answer)
    return max(
        float(said == one) if measure == "exact" or said == one or _closed(said) or _closed(one) else _f1(said, one)
        for one in wanted
    )


@method("cost", kind="grader")
def cost(cost: Any) -> float | Verdict:
    """What the row says its rollout cost, as it is: a number of at least 0 in the field `cost`. To be shaped, not maximised.

    No verdict for what is missing, negative or not finite.

    >>> cost(2.5), cost(None).reason
    (2.5, 'no cost that is a number of at least 0')
    """
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost <= sys.float_info.max:
        return Verdict(0.0, valid=False, reason="no cost that is a number of at least 0")
    return float(cost)


def _words(text: str) -> list[str]:
    kept = text[:LONGEST].lower().translate(_NO_PUNCTUATION).split()
    return [word for word in kept if word not in ("a", "an", "the")]


def _closed(words: list[str]) -> bool:
    return len(words) == 1 and words[0] in ("yes", "no", "noanswer")


def _f1(said: list[str], wanted: list[str]) -> float:
    return 2 * (Counter(said) & Counter(wanted)).total() / (len(said) + len(wanted))


def _fault(response: str, models: set[str]) -> str:
    """What is wrong with a transcript; nothing where it is right."""
    counts = dict.fromkeys(("think", "search", "information", "answer"), 0)
    open_tag, start, end, blocks = "", 0, 0, 0
    for tag in _TAG.finditer(response):
        closes, name = bool(tag[1]), tag[2]
        if closes != bool(open_tag) or (closes and name != open_tag):
            return f"{tag[0]} does not fit" + (f" inside <{open_tag}>" if open_tag else "")
        if not closes:
            if not blocks and (name != "think" or response[: tag.start()].strip()):
                return "something before the first thought"
            open_tag, start, blocks = name, tag.end(), blocks + 1
            continue
        if counts["answer"]:
            return "something after the answer"
        counts[name] += 1
        if name == "search" and (why := _bad_call(response[start : tag.start()], models)):
            return why
        open_tag, end = "", tag.end()
    if open_tag:
        return f"<{open_tag}> is not closed"
    if not counts["think"] or counts["answer"] != 1:
        return "no thought" if not counts["think"] else "not exactly one answer"
    if response[end:].strip():
        return "something after the answer"
    if counts["search"] != counts["information"]:
        return f"{counts['search']} calls and {counts['information']} blocks of information"
    return ""


def _bad_call(text: str, models: set[str]) -> str:
    name, colon, query = (part.strip() for part in text.partition(":"))
    if not colon or _PLACEHOLDER.fullmatch(name) or _PLACEHOLDER.fullmatch(query):
        return "a call without a model and a query of its own"
    if models and name.casefold() not in models:
        return f"{name[:40]!r} is no model that can be asked"
    return ""
