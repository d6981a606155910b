"""How far did a program get, and how good is what it predicts? Partial credit by milestones that are not the policy's to mark.

A row's `response` holds a Python program that reads `stdin` and prints its submission, one value per line. Its `reference` is
{"expected": [values], "metric": "accuracy", "milestones": [{"name": "trained", "calls": ["fit", "train"]}, ...]}, and perhaps
"stdin", "scale" (below), "seconds" and "memory_mb" (30 and 1024). The program never sees what is expected.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.sandbox.handle import Sandbox
from payoff.sandbox.results import Ended, Limits, SandboxError
from payoff.signals.code import final_code

METRICS = ("accuracy", "absolute-error", "squared-error")
LONGEST = 200_000  # characters of a program

# What runs in place of the program: itself, with every call of a milestone's function followed by a mark on stderr. Whatever the
# program does to its marks it does to partial credit alone.
_MARKING = """\
def _prepare(source, wanted, nonce):
    import ast, os
    def mark(number, value, seen=set(), write=os.write):
        if number not in seen:
            seen.add(number)
            write(2, f"\\n{nonce} {number}\\n".encode())
        return value
    class Marking(ast.NodeTransformer):
        def visit_Call(self, node):
            self.generic_visit(node)
            name = ast.unparse(node.func) if isinstance(node.func, (ast.Name, ast.Attribute)) else ""
            for number, names in enumerate(wanted):
                if any(name == one or name.endswith("." + one) for one in names):
                    node = ast.copy_location(ast.Call(ast.Name("_payoff_mark", ast.Load()), [ast.Constant(number), node], []), node)
            return node
    tree = ast.fix_missing_locations(Marking().visit(ast.parse(source, "program.py")))
    return compile(tree, "program.py", "exec", dont_inherit=True), mark
_payoff_code, _payoff_mark = _prepare(*{arguments!r})
del _prepare
exec(_payoff_code)
"""


class BadWorkError(ValueError):
    """A reference that says nothing of what is expected."""


class Work(NamedTuple):
    """A reference, read: what is printed at best, how it is measured, and the functions of each milestone by name."""

    expected: list[str]
    metric: str
    scale: float
    stdin: str
    names: list[str]
    calls: list[list[str]]
    limits: Limits


@method("milestones", kind="grader", paper="arXiv:2509.01684")
def milestones(response: str, reference: Any, *, failure: float = -10.0, credit: float = 0.1, isolation: str = "strict") -> Verdict:
    """The score of a program's submission; without a valid one, `failure` + `credit` for every milestone that was reached.

    A milestone is reached when a call of one of its functions returned, by name ("fit" for `fit(...)` and `model.fit(...)`). The
    calls are marked here, in a copy of the program; the paper has a frozen language model insert prints. A submission is valid
    where the program ended by itself and printed as many values as are expected, for an error finite numbers.

    metric: "accuracy", the share of equal values (texts without spaces at their ends), 0..1; "absolute-error" and "squared-error",
            -mean|error| / scale or -mean error^2 / scale, not below -1. "scale": the error of a trivial answer, > 0 (1)

    Range failure .. failure + credit x milestones, and -1..1. The first must end below the second, or there is no verdict: so that
    no partial credit is ever worth a submission. Gamed by calling what is named, or by forging marks (the program shares its
    process with them, and can): for `credit` each, and never beyond the worst submission. Constant predictions are a
    submission, and score as one. Cost: one run.
    No verdict for a reference that cannot be read, a lost run, and where the machine cannot give the level.
    Raises ValueError for a credit below 0.

    >>> work = {"expected": [2, 4], "metric": "accuracy", "stdin": "1 2", "milestones": [{"name": "read", "calls": ["input"]}]}
    >>> programs = ("import nothing", "x = input()\\n1 / 0", "x = input()\\nprint(2)\\nprint(3)")
    >>> [milestones(program, work, isolation="process").value for program in programs]
    [-10.0, -9.9, 0.5]
    """
    if not credit >= 0 or not math.isfinite(failure + credit):
        raise ValueError(f"milestones: credit must be >= 0 and both finite, got {credit} and {failure}")
    try:
        work = read_work(reference)
    except BadWorkError as error:
        return Verdict(0.0, valid=False, reason=f"reference: {error}")
    worst = 0.0 if work.metric == "accuracy" else -1.0
    if not failure + credit * len(work.names) < worst:
        why = f"partial credit reaches {failure + credit * len(work.names):g}, where submissions begin at {worst:g}"
        return Verdict(0.0, valid=False, reason=why)
    code = final_code(response)
    if code is None or len(code) > LONGEST:
        return Verdict(failure, valid=True, reason="no code" if code is None else f"more than {LONGEST} characters")
    nonce = secrets.token_hex(16)
    program = _MARKING.replace("{arguments!r}", repr((code.encode("utf-8", "backslashreplace").decode(), work.calls, nonce)))
    try:
        run = Sandbox(isolation).run_python(program, stdin=work.stdin, limits=work.limits)
    except SandboxError as error:
        return Verdict(0.0, valid=False, reason=f"cannot be judged here: {error}")
    if run.lost:
        return Verdict(0.0, valid=False, reason=f"lost: {run.reason}")
    score, why = _score(run.stdout, work) if run.ended is Ended.FINISHED else (None, run.reason)
    if score is not None:
        return Verdict(score)
    reached = {int(k) for k in re.findall(rf"^{nonce} (\d{{1,4}})$", run.stderr, re.MULTILINE) if int(k) < len(work.names)}
    names = ", ".join(work.names[k] for k in sorted(reached)) or "none"
    return Verdict(failure + credit * len(reached), valid=True, reason=f"{why}; reached: {names}")


def _score(printed: str, work: Work) -> tuple[float | None, str]:
    """What a submission is worth, or why it is none."""
    lines = [line.strip() for line in printed.strip().split("\n")]
    if len(lines) != len(work.expected):
        return None, f"{len(lines) if printed.strip() else 0} values, not {len(work.expected)}"
    if work.metric == "accuracy":
        return sum(a == b for a, b in zip(lines, work.expected, strict=True)) / len(lines), ""
    try:
        values = [float(line) for line in lines]
    except ValueError:
        return None, "a value that is no number"
    if not all(map(math.isfinite, values)):
        return None, "a value that is not finite"
    errors = [abs(a - float(b)) for a, b in zip(values, work.expected, strict=True)]
    squared = work.metric == "squared-error"
    mean = math.fsum(min(e, 1e100) ** 2 if squared else min(e, 1e300) for e in errors) / len(errors)
    return max(-1.0, -mean / work.scale), ""


def read_work(reference: Any) -> Work:
    """A reference as what is expected; BadWorkError says what is wrong with it."""
    if not isinstance(reference, Mapping):
        raise BadWorkError(f"an object is needed, got {type(reference).__name__}")
    known = {"expected", "metric", "scale", "stdin", "milestones", "seconds", "memory_mb"}
    if unknown := sorted(set(map(str, reference)) - known):
        raise BadWorkError(f"unknown field {unknown[0]!r}")
    metric, stdin = reference.get("metric", "accuracy"), reference.get("stdin", "")
    if metric not in METRICS:
        raise BadWorkError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    expected = _list(reference.get("expected"), "expected", least=1)
    if metric != "accuracy" and not all(_finite(value) for value in expected):
        raise BadWorkError('"expected" must be finite numbers for an error')
    if not isinstance(stdin, str):
        raise BadWorkError('"stdin" must be text')
    scale, seconds, memory = (reference.get(name, default) for name, default in _NUMBERS)
    if not all(_finite(number) and number > 0 for number in (scale, seconds, memory)):
        raise BadWorkError(f"scale, seconds and memory_mb must be numbers > 0, got {scale!r}, {seconds!r} and {memory!r}")
    names, calls = [], []
    for entry in _list(reference.get("milestones", []), "milestones", least=0):
        functions = entry.get("calls") if isinstance(entry, Mapping) else None
        if not isinstance(functions, list | tuple) or not functions or not all(isinstance(f, str) and f for f in functions):
            raise BadWorkError('a milestone is an object with a "name" and "calls", a list of functions\' names')
        names.append(str(entry.get("name", functions[0])))
        calls.append(list(functions))
    try:
        limits = Limits(wall=seconds, cpu=seconds, memory=int(memory) << 20)
    except ValueError as error:
        raise BadWorkError(str(error)) from None
    return Work([str(value).strip() for value in expected], metric, float(scale), stdin, names, calls, limits)


_NUMBERS = (("scale", 1.0), ("seconds", 30.0), ("memory_mb", 1024))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _list(values: Any, name: str, *, least: int) -> Sequence[Any]:
    if not isinstance(values, list | tuple) or len(values) < least:
        raise BadWorkError(f'"{name}" must be a list' + (" with at least one value" if least else ""))
    return values
