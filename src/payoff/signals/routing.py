"""Answers that were put together by asking other models: the form of such a transcript, and what it cost."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from payoff.catalogue import method
from payoff.pipeline import Verdict

_TAG = re.compile(r"<(/?)(think|search|information|answer)>")
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


@method("cost", kind="grader")
def cost(cost: float | int | None) -> float | Verdict:
    """What the row says its rollout cost, as it is: a number of at least 0 in the field `cost`. To be shaped, not maximised.

    No verdict for what is missing, negative or not finite.

    >>> cost(2.5), cost(None).reason
    (2.5, 'no cost that is a number of at least 0')
    """
    if cost is None or isinstance(cost, bool) or not 0 <= cost < math.inf:
        return Verdict(0.0, valid=False, reason="no cost that is a number of at least 0")
    return float(cost)


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
