"""Tool calls: questions that need one or two calls of real Python functions, which run in the sandbox."""

from __future__ import annotations

import ast
import inspect
import json
import random
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from functools import cache, partial
from typing import Any, NamedTuple

from payoff.catalogue import method
from payoff.pipeline import Response, Start
from payoff.sandbox.handle import Sandbox
from payoff.sandbox.results import Limits
from payoff.tasks.turns.dialogue import Dialogue, SeededDialogues
from payoff.tasks.turns.remembering import RememberingSandbox
from payoff.tasks.turns.tool_library import TOOLS
from payoff.trajectories import StopReason

_CALL = re.compile(r"call:?\s*(.+)", re.DOTALL)
_ANSWER = re.compile(r"answer:?\s*(.+)", re.DOTALL)
_TAGGED = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_SHOWN = 400  # characters of what a tool gave


class Call(NamedTuple):
    """A call as it was written."""

    name: str
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = {}


class BadCallError(ValueError):
    """A turn that is meant as a call and cannot be read as one; the message is told to the policy."""


def read_call(turn: str) -> Call | None:
    """The call in a turn: `call: NAME(ARGUMENT, ...)` with Python literals, or one JSON object between <tool_call> tags.

    The object has `name`, and `arguments` or `parameters`. None for a turn without a call; BadCallError for one that cannot be
    read. Nothing in it is evaluated but literals.

    >>> read_call("call: gcd(84, b=36)")
    Call(name='gcd', arguments=(84,), keywords={'b': 36})
    >>> read_call('<tool_call>{"name": "weekday", "arguments": {"day": "2024-02-29"}}</tool_call>').keywords
    {'day': '2024-02-29'}
    """
    if tagged := _TAGGED.search(turn):
        return _tagged(tagged[1])
    written = _CALL.fullmatch(turn.strip())
    if written is None:
        return None
    try:
        tree = ast.parse(written[1].strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadCallError("write a call as NAME(ARGUMENT, ...)") from None
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise BadCallError("write a call as NAME(ARGUMENT, ...)")
    try:
        arguments = tuple(ast.literal_eval(argument) for argument in tree.args)
        keywords = {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords}
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise BadCallError("arguments must be numbers, texts, lists and the like, written out") from None
    return Call(tree.func.id, arguments, keywords)


def _tagged(text: str) -> Call:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise BadCallError("what stands between the tags is no JSON") from None
    given = said.get("arguments", said.get("parameters", {})) if isinstance(said, dict) else None
    if not isinstance(given, dict) or not isinstance(said.get("name"), str):
        raise BadCallError('a call is {"name": ..., "arguments": {...}}')
    return Call(said["name"], (), given)


class ToolEpisode:
    """One question with its tools. A failed call is told as the tool's error; the sandbox's own failure raises."""

    def __init__(self, reference: str, tools: Sequence[str], sandbox: Sandbox | RememberingSandbox, seconds: float | int) -> None:
        self.reference, self.tools = reference, tools
        self.sandbox, self.limits = sandbox, Limits(cpu=seconds, wall=seconds)
        self.outcome = 0.0

    def respond(self, action: str) -> Response:
        """A call is run and told, an answer ends the episode, and what is neither is told so."""
        try:
            call = read_call(action)
        except BadCallError as error:
            return Response(f"Error: {error}\n", 0.0, None)
        if call is not None:
            return Response(self._run(call) + "\n", 0.0, None)
        answer = _ANSWER.fullmatch(action.strip())
        if answer is None:
            return Response("Error: write `call: NAME(ARGUMENT, ...)` or `answer: ANSWER`\n", 0.0, None)
        self.outcome = float(_bare(answer[1]) == _bare(self.reference))
        return Response("Right.\n" if self.outcome else "Wrong.\n", self.outcome, StopReason.finished)

    def snapshot(self) -> None:
        """None: an episode comes back by repeating its turns."""

    def _run(self, call: Call) -> str:
        if call.name not in self.tools:
            return f"Error: there is no tool {call.name[:40]!r}; there are {', '.join(self.tools)}"
        try:
            result = self.sandbox.call_function(
                _source(call.name), call.name, [(call.arguments, call.keywords)], limits=self.limits
            )
        except ValueError as error:  # arguments that are no plain data
            return f"Error: {error}"[:_SHOWN]
        if result[0].run.lost:
            raise RuntimeError(f"the sandbox lost the call of {call.name}: {result[0].run.reason}")
        if not result[0].returned:
            return f"Error: {result[0].reason}"[:_SHOWN]
        value = result[0].value
        return (value if isinstance(value, str) else repr(value))[:_SHOWN]


@method("turns-tools", kind="task")
class ToolTask(SeededDialogues):
    """Questions that real Python tools answer, called in the sandbox one turn at a time.

    kinds:     of questions, of those in `KINDS` (None: all); those of two calls need what the first gave
    turns:     at most
    isolation: the sandbox's level, see docs/sandbox.md
    seconds:   of processor and clock for one call; a call that takes longer is told as an error
    together:  calls that run at a time; 0: one after another, and then a run repeats bit for bit on a CPU
    remember:  of so many different calls it is told again what they gave, without another run; the tools always give the same
    seeds:     how many questions there are to train on (0: no limit); held-out ones are others

    A turn is one line, `call: gcd(84, 36)` or `answer: 12`; a call may also stand between <tool_call> tags as JSON. The environment
    pays 1 for the right answer, which is also the truth. A reference is computed by the same functions in this process, from
    numbers of this task's own. A run that the sandbox lost puts the rollout into error: no verdict.
    Raises ValueError for an unknown kind.

    >>> start = ToolTask(kinds=["common-divisor"], isolation="process").start(1)
    >>> start.fields["prompt"].splitlines()[-1], start.fields["solution"], start.fields["reference"]
    ('What is the greatest common divisor of 192 and 216?', ['call: gcd(192, 216)\\n', 'answer: 24\\n'], '24')
    >>> start.environment.respond("call: gcd(192, 216)").observation
    '24\\n'
    """

    name = "turns-tools"

    def __init__(
        self,
        *,
        kinds: Sequence[str] | None = None,
        turns: int = 4,
        isolation: str = "strict",
        seconds: float | int = 5,
        together: int = 4,
        remember: int = 0,
        seeds: int = 0,
    ) -> None:
        unknown = sorted(set(kinds or ()) - set(KINDS))
        if unknown or (kinds is not None and not kinds):
            raise ValueError(f"turns-tools: kinds must be of {sorted(KINDS)}, got {unknown or []}")
        self.kinds, self.turns, self.sandbox = sorted(kinds or KINDS), turns, RememberingSandbox(isolation, most=remember)
        self.seconds, self.together, self.seeds = seconds, together, seeds

    def start(self, seed: int) -> Start:
        """The start of this seed. fields: prompt, reference, solution (turns that are right), kind, seed."""
        draw = random.Random(f"turns-tools {seed}")
        kind = draw.choice(self.kinds)
        question, calls = KINDS[kind](draw)
        lines, value = [], None
        for name, make in calls:
            arguments = make(value)
            value = TOOLS[name](*arguments)
            lines.append(f"call: {name}({', '.join(map(repr, arguments))})\n")
        prompt = f"{_told()}{question}\n"
        fields = {"prompt": prompt, "reference": str(value), "solution": [*lines, f"answer: {value}\n"], "kind": kind, "seed": seed}
        episode = partial(ToolEpisode, str(value), tuple(TOOLS), self.sandbox, self.seconds)
        ends = ("\n", "</tool_call>")
        return Start(f"turns-tools:{seed}", fields, Dialogue(episode, turns=self.turns, ends=ends, concurrency=self.together))


Question = tuple[
    str, list[tuple[str, Callable[[Any], tuple]]]
]  # its text, and the calls that answer it, each from what came before


def _divisor(draw: random.Random) -> Question:
    a, b = (12 * draw.randint(2, 20) for _ in range(2))
    return f"What is the greatest common divisor of {a} and {b}?", [("gcd", lambda _: (a, b))]


def _multiple_in_base(draw: random.Random) -> Question:
    a, b, base = draw.randint(4, 60), draw.randint(4, 60), draw.choice((2, 3, 8, 16))
    question = f"Write the least common multiple of {a} and {b} in base {base}."
    return question, [("lcm", lambda _: (a, b)), ("to_base", lambda n: (n, base))]


def _largest_factor(draw: random.Random) -> Question:
    n = draw.randint(200, 5000)
    return f"List the prime factors of {n} in order, as a Python list.", [("factorise", lambda _: (n,))]


def _factors_of_written(draw: random.Random) -> Question:
    n, base = draw.randint(200, 3000), draw.choice((2, 8, 16))
    written = TOOLS["to_base"](n, base)
    question = f"List the prime factors of the number written {written} in base {base}, in order, as a Python list."
    return question, [("from_base", lambda _: (written, base)), ("factorise", lambda n: (n,))]


def _day(draw: random.Random) -> str:
    return (date(1900, 1, 1) + timedelta(days=draw.randrange(73000))).isoformat()


def _weekday(draw: random.Random) -> Question:
    day = _day(draw)
    return f"Which weekday is {day}?", [("weekday", lambda _: (day,))]


def _days_in_base(draw: random.Random) -> Question:
    first, second = sorted((_day(draw), _day(draw)))
    question = f"Write the number of days from {first} to {second} in base 16."
    return question, [("days_between", lambda _: (first, second)), ("to_base", lambda n: (n, 16))]


def _checksum(draw: random.Random) -> Question:
    text = "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(draw.randint(4, 9)))
    return f"What is the CRC-32 of the text {text!r}, as a whole number?", [("checksum", lambda _: (text,))]


KINDS: dict[str, Callable[[random.Random], Question]] = {
    "common-divisor": _divisor,
    "multiple-in-base": _multiple_in_base,
    "factors": _largest_factor,
    "factors-of-written": _factors_of_written,
    "weekday": _weekday,
    "days-in-base": _days_in_base,
    "checksum": _checksum,
}


@cache
def _told() -> str:
    """What every prompt begins with: the tools, and how a turn is written."""
    told = "\n".join(f"{name}{inspect.signature(tool)}: {tool.__doc__}" for name, tool in TOOLS.items())
    return f"Tools:\n{told}\nOne line a turn: `call: NAME(ARGUMENT, ...)` or `answer: ANSWER`.\n"


@cache
def _source(name: str) -> str:
    return textwrap.dedent(inspect.getsource(TOOLS[name]))


def _bare(text: str) -> str:
    """An answer without blank space and the marks around it."""
    return "".join(text.split()).strip("`'\".")
