"""File repair: a function with one fault, edited line by line, tried on examples, and judged by tests that are never shown."""

from __future__ import annotations

import re
from functools import partial
from typing import Literal

from payoff.catalogue import method
from payoff.pipeline import Response, Start
from payoff.sandbox.handle import Sandbox
from payoff.sandbox.plain import same
from payoff.sandbox.results import Limits
from payoff.tasks.turns.broken_files import Broken, broken
from payoff.tasks.turns.dialogue import Dialogue, SeededDialogues
from payoff.tasks.turns.remembering import RememberingSandbox
from payoff.trajectories import StopReason

VISIBLE = 2  # inputs that the policy may try
_EDIT = re.compile(r"line\s+(\d{1,3})\s*:(.*)", re.DOTALL)
_LONGEST = 300  # characters of a line


class RepairEpisode:
    """One file. Expected values stay in this process: the sandbox is given the code and the inputs, and says what comes out."""

    def __init__(self, fault: Broken, pays: str, sandbox: Sandbox | RememberingSandbox, seconds: float | int) -> None:
        self.fault, self.pays = fault, pays
        self.lines = fault.source.splitlines()
        self.sandbox, self.limits = sandbox, Limits(cpu=seconds, wall=seconds)
        self.outcome, self._most = 0.0, len(fault.expected) - fault.failing

    def respond(self, action: str) -> Response:
        """`show`, `run`, `line N: CODE` or `submit`; what is none of these is told so."""
        said = action.strip()
        if said == "show":
            return Response(numbered(self.lines), 0.0, None)
        if said == "run":
            return Response(self._examples(), 0.0, None)
        if said == "submit":
            passed = self._passed(len(self.fault.expected))
            self.outcome = float(all(passed))
            paid = float(all(passed[:VISIBLE])) if self.pays == "examples" else self.outcome
            return Response(f"{sum(passed)} of {len(passed)} tests pass.\n", paid, StopReason.finished)
        edit = _EDIT.fullmatch(said)
        if edit is None:
            return Response("Error: write `show`, `run`, `line N: CODE` or `submit`\n", 0.0, None)
        told = self._edit(int(edit[1]), edit[2])
        return Response(told, self._progress() if self.pays == "progress" else 0.0, None)

    def snapshot(self) -> None:
        """None: an episode comes back by repeating its turns."""

    def _edit(self, number: int, code: str) -> str:
        if not 1 <= number <= len(self.lines):
            return f"Error: there are lines 1 to {len(self.lines)}\n"
        old = self.lines[number - 1]
        code = code.strip("\r\n")[:_LONGEST].rstrip()
        code = code.removeprefix(" ")  # the one behind the colon
        if not code.startswith((" ", "\t")):  # written without indentation: that of the line it replaces
            code = old[: len(old) - len(old.lstrip())] + code
        self.lines[number - 1] = code
        return f"{number}: {code}\n"

    def _progress(self) -> float:
        """1 where more of the hidden tests pass than ever before."""
        passed = sum(self._passed(len(self.fault.expected)))
        before, self._most = self._most, max(self._most, passed)
        return float(passed > before)

    def _examples(self) -> str:
        results = self._results(VISIBLE)
        told = []
        for arguments, expected, (returned, value, reason) in zip(self.fault.whole.inputs, self.fault.expected, results):
            call = f"{self.fault.whole.name}({', '.join(map(repr, arguments))})"
            right = returned and same(value, expected)
            told.append(f"{call}: " + ("ok" if right else f"{repr(value)[:80] if returned else reason[:80]}, not {expected!r}"))
        return "\n".join(told) + "\n"

    def _passed(self, count: int) -> list[bool]:
        return [
            returned and same(value, expected)
            for expected, (returned, value, _) in zip(self.fault.expected, self._results(count), strict=False)
        ]

    def _results(self, count: int) -> list[tuple[bool, object, str]]:
        """(returned, value, why not) for the first inputs. Raises RuntimeError where the sandbox lost the run."""
        calls: list[tuple[tuple, dict[str, object]]] = [(arguments, {}) for arguments in self.fault.whole.inputs[:count]]
        cases = self.sandbox.call_function("\n".join(self.lines) + "\n", self.fault.whole.name, calls, limits=self.limits)
        if lost := [case for case in cases if case.run.lost]:
            raise RuntimeError(f"the sandbox lost the run: {lost[0].run.reason}")
        return [(case.returned, case.value, case.reason) for case in cases]


def numbered(lines: list[str]) -> str:
    """Lines with their numbers, as the policy sees them.

    >>> print(numbered(["def f():", "    return 1"]), end="")
    1: def f():
    2:     return 1
    """
    return "".join(f"{number}: {line}\n" for number, line in enumerate(lines, 1))


@method("turns-repair", kind="task")
class RepairTask(SeededDialogues):
    """A Python function with one fault, to be found and put right in turns; hidden tests in the sandbox say whether it is.

    pays:      what the environment pays for at `submit`: "tests", the hidden tests, or "examples", the two inputs that `run` tries.
               "progress" pays 1 as "tests" does, and 1 for every edit after which more hidden tests pass than ever before.
               The truth is the hidden tests always; with "examples" a special case for the two inputs is paid and worth nothing
    turns:     at most
    isolation: the sandbox's level, see docs/sandbox.md
    seconds:   of processor and clock for one run
    together:  runs at a time; 0: one after another, and then a run repeats bit for bit on a CPU
    remember:  of so many different runs it is told again what came of them: right for code that draws no random numbers
    seeds:     how many files there are to train on (0: no limit); held-out ones are others, of the same few functions

    A turn is one line: `show`, `run`, `line N: CODE` or `submit`. An episode that is not submitted is worth 0. Expected values
    never enter the sandbox. A run that it lost puts the rollout into error: no verdict.

    >>> start = RepairTask(isolation="process").start(0)
    >>> print(start.fields["prompt"])
    Put this file right. A turn is one line: `show`, `run` (tries examples), `line N: CODE` (replaces a line) or `submit`.
    1: def clamp(value, low, high):
    2:     'The value, or the nearest of low and high where it lies outside.'
    3:     if value < low:
    4:         return low
    5:     if value < high:
    6:         return high
    7:     return value
    <BLANKLINE>
    >>> [start.environment.respond(turn).reward for turn in start.fields["solution"]]
    [0.0, 1.0]
    """

    name = "turns-repair"

    def __init__(
        self,
        *,
        pays: Literal["tests", "examples", "progress"] = "tests",
        turns: int = 6,
        isolation: str = "strict",
        seconds: float | int = 5,
        together: int = 4,
        remember: int = 0,
        seeds: int = 0,
    ) -> None:
        if pays not in ("tests", "examples", "progress"):
            raise ValueError(f'turns-repair: pays must be "tests", "examples" or "progress", got {pays!r}')
        self.pays, self.turns, self.seconds = pays, turns, seconds
        self.sandbox = RememberingSandbox(isolation, most=remember)
        self.together, self.seeds = together, seeds

    def start(self, seed: int) -> Start:
        """The start of this seed. fields: prompt, reference (the right file), solution (turns that repair it), events, seed.

        events: how often the environment pays at most, for `turn-dense`: at `submit`, and with "progress" for each failing test
        """
        fault = broken(seed)
        prompt = (
            "Put this file right. A turn is one line: "
            "`show`, `run` (tries examples), `line N: CODE` (replaces a line) or `submit`.\n" + numbered(fault.source.splitlines())
        )
        solution = [f"line {fault.line}: {fault.right_line}\n", "submit\n"]
        events = 1 + (fault.failing if self.pays == "progress" else 0)
        fields = {"prompt": prompt, "reference": fault.whole.source, "solution": solution, "events": events, "seed": seed}
        episode = partial(RepairEpisode, fault, self.pays, self.sandbox, self.seconds)
        return Start(f"turns-repair:{seed}", fields, Dialogue(episode, turns=self.turns, concurrency=self.together))
