"""Did it call the right tools with the right arguments? Graders that take a tool call apart (ToolRL); nothing is called.

A response says `<think>...</think>`, then `<tool_call>` with one JSON object {"name": ..., "parameters": {...}} per line, then
perhaps `<response>...</response>`. The row's `reference` is a list of such objects; or {"calls": [...], "response": true}, where
`response` says that words are wanted as well; or a text of this same form.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn

from payoff._extras import require
from payoff.catalogue import method
from payoff.pipeline import Verdict

ToolReference = str | Sequence[Any] | Mapping[str, Any] | None
Granularity = Literal["fine", "calls", "all"]
Matching = Literal["greedy", "assignment"]
Names = Literal["overlap", "equal"]
_MOST_CALLS = 1000
_SECTIONS = {
    ("think",): r"<think>.*?</think>",
    ("think", "tool_call"): r"<think>.*?</think>\n<tool_call>\n.*?\n</tool_call>",
    ("think", "response"): r"<think>.*?</think>\n<response>.*?</response>",
    ("think", "tool_call", "response"): r"<think>.*?</think>\n<tool_call>\n.*?\n</tool_call>\n<response>.*?</response>",
}


class Call(NamedTuple):
    """One call of a tool."""

    name: str
    parameters: dict[str, Any]


class BadCallsError(ValueError):
    """Text or data that holds no calls that can be read."""


@method("toolrl", kind="grader", paper="arXiv:2504.13958")
def toolrl(
    response: str,
    reference: ToolReference,
    *,
    granularity: Granularity = "fine",
    matching: Matching = "greedy",
    names: Names = "overlap",
) -> Verdict:
    """Form (0 or 1) and tool calls (-3 to 3) in one number, -3 to 4: `toolrl_format` + `toolrl_calls`, which say what they mean.

    No verdict for a reference that holds no calls that can be read. Rewards of other scales, or of scales that move while
    training: take the two apart, and give each a `scale-schedule`. `reference` says what the row holds; see the module.

    >>> wanted = [{"name": "find", "parameters": {"city": "Rome", "day": 1}}]
    >>> said = '<think>Rome</think>\\n<tool_call>\\n{"name": "find", "parameters": {"city": "Rome", "day": 2}}\\n</tool_call>'
    >>> toolrl(said, wanted).value  # 1 for the form; 6 * 3/4 - 3 for one of two values
    2.5
    """
    form = toolrl_format(response, reference)
    calls, score = _judge_calls(response, reference, granularity, matching, names)
    return form if isinstance(form, Verdict) else calls._replace(value=form + score)


@method("toolrl-format", kind="grader", paper="arXiv:2504.13958")
def toolrl_format(response: str, reference: ToolReference) -> float | Verdict:
    """1 where the response has exactly the sections that the reference has, in order and once each, else 0 (ToolRL's format).

    think, then tool_call where the reference calls tools, then response where it answers in words; each section starts a line, and
    the calls stand on lines of their own. What stands in a section is not looked at: thinking nothing at all is well-formed.

    >>> toolrl_format("<think>.</think>\\n<response>Hello</response>", {"calls": [], "response": True})
    1.0
    >>> toolrl_format("<think>.</think><response>Hello</response>", {"calls": [], "response": True})
    0.0
    """
    try:
        calls, words = read_reference(reference)
    except BadCallsError as error:
        return Verdict(0.0, valid=False, reason=f"reference: {error}")
    wanted = ("think", *(["tool_call"] if calls else []), *(["response"] if words else []))
    for tag in ("think", "tool_call", "response"):
        if any(response.count(mark) != (tag in wanted) for mark in (f"<{tag}>", f"</{tag}>")):
            return 0.0
    return float(re.fullmatch(_SECTIONS[wanted], response.removesuffix("\n"), re.DOTALL) is not None)


@method("toolrl-calls", kind="grader", paper="arXiv:2504.13958")
def toolrl_calls(
    response: str,
    reference: ToolReference,
    *,
    granularity: Granularity = "fine",
    matching: Matching = "greedy",
    names: Names = "overlap",
) -> Verdict:
    """How much of the calls is right, from -3 to 3: 6 s / S - 3 (ToolRL's correctness reward).

    s = J(names) + sum over matched calls of (J(parameter names) + number of parameters with the right value), and
    S = 1 + sum over wanted calls of (1 + number of its parameters). J is the Jaccard index of multisets, 1 for equal ones. Only
    calls of one name are matched, each once.

    granularity: "fine", as above; "calls": a matched call counts 1 only if it is equal, and S = 1 + number of wanted calls; "all":
                 3 if the calls are equal in order, else -3
    matching:    "greedy": each wanted call in turn takes the best one left, as in the paper; "assignment": the best matching of
                 all, which no order of the calls can change (extra `solvers`). They differ where one tool is called several times
    names:       "overlap", as above; "equal": J is 1 for the same names in the same order and else 0, of tools and of parameters
                 (the paper's strict matching): a call too many, or the parameters in another order, lose all that names bring

    No calls that can be read: -3 with the reason, also for more than 1000 of them. A reference that calls nothing: 0, whatever is
    called, so that needless calls are only caught by the format. Values are compared as JSON: 1 is 1.0 and is not true or "1".
    Gamed by spraying: a wanted call among ten others loses only in J(names). Cost: wanted x given calls.
    No verdict for a reference that holds no calls that can be read. Raises ValueError for unknown granularity, matching or names.

    >>> wanted = [{"name": "find", "parameters": {"city": "Rome"}}, {"name": "book", "parameters": {}}]
    >>> toolrl_calls('<tool_call>\\n{"name": "book", "parameters": {}}\\n</tool_call>', wanted).value  # s = 1/2 + 1, S = 1 + 2 + 1
    -0.75
    >>> toolrl_calls("I would book a room.", wanted)
    Verdict(value=-3.0, valid=True, reason='calls: no <tool_call> block')
    """
    return _judge_calls(response, reference, granularity, matching, names)[0]


@method("toolrl-length", kind="grader", paper="arXiv:2504.13958")
def toolrl_length(response: str, *, full: int = 512) -> float:
    """How long it thinks, up to enough: min(1, words in the last <think> / full), 0 without the tags (ToolRL's length bonus).

    The paper adds it to form and calls and finds that it lengthens answers and does not mend them: a rival to compare with. Its
    program rounds to hundredths, and in a variant lets `full` rise from 384 to 640 over 105 updates.
    Range 0..1. Gamed by words. Raises ValueError for full < 1.

    >>> toolrl_length("<think>two words</think>", full=4), toolrl_length("two words", full=4)
    (0.5, 0.0)
    """
    if full < 1:
        raise ValueError(f"toolrl_length: full must be at least 1, got {full}")
    if "<think>" not in response or "</think>" not in response:
        return 0.0
    return min(1.0, len(response.rpartition("<think>")[2].partition("</think>")[0].split()) / full)


def _judge_calls(
    response: str, reference: ToolReference, granularity: Granularity, matching: Matching, names: Names
) -> tuple[Verdict, float]:
    """The verdict on the calls, and its number."""
    if granularity not in ("fine", "calls", "all") or matching not in ("greedy", "assignment") or names not in ("overlap", "equal"):
        raise ValueError(
            'toolrl_calls: granularity is "fine", "calls" or "all", matching "greedy" or "assignment" and '
            f'names "overlap" or "equal", got {granularity!r}, {matching!r} and {names!r}'
        )
    try:
        wanted, _ = read_reference(reference)
    except BadCallsError as error:
        return Verdict(0.0, valid=False, reason=f"reference: {error}"), 0.0
    score, reason = 0.0, ""
    try:
        score = 6 * _share(wanted, read_calls(response), granularity, matching, names) - 3 if wanted else 0.0
    except (BadCallsError, RecursionError) as error:
        score, reason = -3.0, f"calls: {error}"
    return Verdict(score, valid=True, reason=reason), score


def read_calls(text: str) -> list[Call]:
    """The calls in the first <tool_call> block of a text, one JSON object per line; BadCallsError says what is wrong.

    >>> read_calls('<tool_call>{"name": "find", "parameters": {}}</tool_call>')
    [Call(name='find', parameters={})]
    """
    _, opened, rest = text.partition("<tool_call>")
    inside, closed, _ = rest.partition("</tool_call>")
    if not opened or not closed:
        raise BadCallsError("no <tool_call> block" if not opened else "the <tool_call> block is not closed")
    lines = inside.strip().split("\n")
    if len(lines) > _MOST_CALLS:
        raise BadCallsError(f"more than {_MOST_CALLS} calls")
    try:
        return [_call(json.loads(line, parse_constant=_no_number)) for line in lines]
    except RecursionError:
        raise BadCallsError("nested too deeply") from None
    except BadCallsError:
        raise
    except ValueError as error:
        raise BadCallsError(f"no JSON: {str(error)[:100]}") from None


def read_reference(reference: ToolReference) -> tuple[list[Call], bool]:
    """The calls that a reference wants, and whether it wants words; BadCallsError says what is wrong.

    >>> read_reference([]), read_reference("<think>.</think>\\n<response>Hello</response>")
    (([], True), ([], True))
    """
    if isinstance(reference, str):
        if "<tool_call>" not in reference and "<response>" not in reference:
            raise BadCallsError("a text without <tool_call> and <response>")
        return (read_calls(reference) if "<tool_call>" in reference else []), "<response>" in reference
    if isinstance(reference, Mapping):
        listed = reference.get("calls")
        words = bool(reference.get("response"))
    else:
        listed, words = reference, not reference
    if not isinstance(listed, list | tuple):
        raise BadCallsError("a list of calls is needed")
    return [_call(one) for one in listed], words


def _call(data: Any) -> Call:
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str) or not isinstance(data.get("parameters"), Mapping):
        raise BadCallsError('a call is an object with a "name" and "parameters"')
    return Call(data["name"], dict(data["parameters"]))


def _no_number(text: str) -> NoReturn:
    raise BadCallsError(f"{text} is no JSON")


def _share(wanted: list[Call], given: list[Call], granularity: Granularity, matching: Matching, names: Names) -> float:
    """s / S, 1 for calls that are equal in order."""
    if len(given) == len(wanted) and all(_equal(a, b) for a, b in zip(wanted, given, strict=True)):
        return 1.0
    if granularity == "all":
        return 0.0
    fine = granularity == "fine"
    alike = jaccard if names == "overlap" else _same_order
    worth = [[_worth(a, b, fine, alike) if a.name == b.name else 0.0 for b in given] for a in wanted]
    most = 1 + sum(1 + len(call.parameters) if fine else 1 for call in wanted)
    named = alike([call.name for call in wanted], [call.name for call in given])
    if matching == "assignment":
        solve = require("scipy.optimize", "matching tool calls by assignment").linear_sum_assignment
        return (named + sum(worth[i][j] for i, j in zip(*solve(worth, maximize=True), strict=True))) / most
    left, total = set(range(len(given))), named
    for row in worth:
        best = max(left, key=lambda j: (row[j], -j), default=None)
        if best is not None and row[best] > 0:
            left.remove(best)
            total += row[best]
    return total / most


def _worth(wanted: Call, given: Call, fine: bool, alike: Callable[[Sequence[str], Sequence[str]], float]) -> float:
    if not fine:
        return float(_equal(wanted, given))
    right = sum(name in given.parameters and same_json(value, given.parameters[name]) for name, value in wanted.parameters.items())
    return alike(list(wanted.parameters), list(given.parameters)) + right


def _same_order(a: Sequence[str], b: Sequence[str]) -> float:
    return float(a == b)


def _equal(a: Call, b: Call) -> bool:
    return a.name == b.name and same_json(a.parameters, b.parameters)


def jaccard(a: Sequence[str], b: Sequence[str]) -> float:
    """Common entries over all entries of two multisets; 1 for two empty ones.

    >>> jaccard(["x", "x", "y"], ["x", "z"]), jaccard([], []), jaccard([], ["x"])
    (0.25, 1.0, 0.0)
    """
    common = (Counter(a) & Counter(b)).total()
    return common / (len(a) + len(b) - common) if a or b else 1.0


def same_json(a: Any, b: Any) -> bool:
    """Whether two values are the same JSON: 1 is 1.0, and true is no number.

    >>> same_json({"a": [1]}, {"a": [1.0]}), same_json(1, True), same_json(1, "1")
    (True, False, False)
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_json(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same_json(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    return type(a) is type(b) and a == b
