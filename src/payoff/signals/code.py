"""Does the code do what it should? Graders that run it in the sandbox and compare outside of it.

A row's `response` holds code, bare or fenced; its `reference` holds tests, which the code never sees: it is given inputs, and
what comes back is compared here, with exact types. What the code does wrong is 0 with a reason. A reference that cannot be read,
and a run that was lost, are no fault of the policy and give no verdict.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.sandbox.handle import Sandbox
from payoff.sandbox.languages import compile_program, run_compiled
from payoff.sandbox.plain import NotPlainError, dump, same, untagged
from payoff.sandbox.results import Ended, Limits, Result

LANGUAGES = ("python", "c", "cpp")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^`]*)$")
_SYNTAX = ("SyntaxError", "IndentationError", "TabError")


class BadTestsError(ValueError):
    """A reference that holds no tests that can be run."""


class Suite(NamedTuple):
    """A reference, read. calls: (arguments, keywords, expected) of a function; programs: (stdin, stdout) of a whole program."""

    entry_point: str
    calls: list[tuple[tuple, dict, Any]]
    programs: list[tuple[str, str]]
    language: str
    limits: Limits
    tolerance: float
    loose: bool


class Outcome(NamedTuple):
    """What came of the tests: how many passed, why the first that failed did, whether it parsed, whether it ran to an answer.

    passes: test by test; shorter than `tests` where the rest was not run
    """

    passed: int
    tests: int
    reason: str
    parsed: bool
    ran: bool
    lost: str = ""
    passes: tuple[bool, ...] = ()


@method("code-tests", kind="grader")
def code_tests(response: str, reference: Any, *, isolation: str = "strict") -> Verdict:
    """1 where the code passes every test, else 0, with the first failure as the reason.

    response:  code, or text whose last complete fenced block is the code
    reference: {"entry_point": "solve", "cases": [{"args": [1], "kwargs": {}, "returns": 2}, ...]}: a function, or "Class.method",
               called from outside; or {"stdin_cases": [{"stdin": "1", "stdout": "2"}, ...]}: programs, each started afresh.
               Optional: "language" of programs ("python", "c", "cpp"); "seconds" and "memory_mb" for all calls together, or for
               each program (10 and 512); "tolerance" of floats, as a share and a difference (0: exactly); "tuples_as_lists" (false)
    isolation: the sandbox's level, see docs/sandbox.md

    Types count: True is not 1, 1.0 is not 1, an instance of a subclass is no plain data. Values that JSON lacks are written as
    {"$tuple": [1, 2]} and the like (`payoff.sandbox.plain.untagged`). Output is compared line by line without spaces at their
    ends; with a tolerance, words that are numbers as numbers. No verdict for a reference that holds no tests, and for a run that
    was lost.
    Raises SandboxError where this machine cannot give the level.

    >>> tests = {"entry_point": "twice", "cases": [{"args": [3], "returns": 6}, {"args": ["ab"], "returns": "abab"}]}
    >>> code_tests("def twice(x): return x + x", tests, isolation="process").value
    1.0
    >>> code_tests("def twice(x): return 6", tests, isolation="process").reason
    "test 2 of 2: returned 6, not 'abab'"
    """
    return _verdict(response, reference, isolation, lambda outcome: float(outcome.passed == outcome.tests), until_failure=True)


@method("code-fraction", kind="grader")
def code_fraction(response: str, reference: Any, *, isolation: str = "strict") -> Verdict:
    """The share of tests that the code passes; response and reference as `code_tests` reads them.

    A test that ends the process fails, and the others go on in a new one; those that no time is left for fail.

    >>> tests = {"stdin_cases": [{"stdin": "3", "stdout": "6"}, {"stdin": "4", "stdout": "8"}]}
    >>> code_fraction("Always six: ```\\nprint(6)\\n```", tests, isolation="process").reason
    'no code: a fenced block is not closed'
    >>> code_fraction("Always six:\\n```python\\nprint(6)\\n```", tests, isolation="process").value
    0.5
    """
    return _verdict(response, reference, isolation, lambda outcome: outcome.passed / outcome.tests)


@method("compile-tiers", kind="grader")
def compile_tiers(response: str, reference: Any, *, parses: float = 0.1, runs: float = 0.3, isolation: str = "strict") -> Verdict:
    """0 for no code or code that does not compile, `parses` if it does, `runs` if any test ends in an answer, 1 if all are passed.

    response and reference as `code_tests` reads them. What is paid for running can be had by code that answers anything at all.
    Raises ValueError unless 0 <= parses <= runs <= 1.

    >>> tests = {"entry_point": "f", "cases": [{"args": [], "returns": 7}]}
    >>> codes = ("def", "f = 1", "def f(): return 6", "def f(): return 7")
    >>> [compile_tiers(code, tests, isolation="process").value for code in codes]
    [0.0, 0.1, 0.3, 1.0]
    """
    if not 0 <= parses <= runs <= 1:
        raise ValueError(f"compile_tiers: 0 <= parses <= runs <= 1 must hold, got {parses} and {runs}")

    def tier(outcome: Outcome) -> float:
        if outcome.passed == outcome.tests:
            return 1.0
        return runs if outcome.ran else parses if outcome.parsed else 0.0

    return _verdict(response, reference, isolation, tier)


def final_code(response: str) -> str | None:
    """The code that a response ends in: its last complete fenced block; all of it where nothing is fenced; else None.

    >>> final_code("First\\n```\\n1\\n```\\nno:\\n```python\\n2\\n```\\n"), final_code("3"), final_code("```python\\n4")
    ('2\\n', '3', None)
    """
    if "```" not in response and "~~~" not in response:
        return response if response.strip() else None
    block: list[str] = []
    last, fence, any_fence = None, "", False
    for line in response.splitlines(keepends=True):
        match = _FENCE.match(line.rstrip())
        if fence and match and match[1].startswith(fence) and not match[2].strip():
            last, fence = "".join(block), ""
        elif fence:
            block.append(line)
        elif match:
            fence, block, any_fence = match[1], [], True
    if last is None and not any_fence and "```" not in response:
        return response
    return last if last is None or last.strip() else None


def _verdict(
    response: str, reference: Any, isolation: str, value: Callable[[Outcome], float], *, until_failure: bool = False
) -> Verdict:
    try:
        tests = read_tests(reference)
    except BadTestsError as error:
        return Verdict(0.0, valid=False, reason=f"reference: {error}")
    code = final_code(response)
    count = len(tests.calls) + len(tests.programs)
    if code is None:
        why = "no code: a fenced block is not closed" if "```" in response else "no code"
        return Verdict(value(Outcome(0, count, why, False, False)), valid=True, reason=why)
    outcome = run_tests(code, tests, Sandbox(isolation), until_failure=until_failure)
    if outcome.lost:
        return Verdict(0.0, valid=False, reason=f"lost: {outcome.lost}")
    return Verdict(value(outcome), valid=True, reason=outcome.reason)


def run_tests(code: str, tests: Suite, sandbox: Sandbox, *, until_failure: bool = False) -> Outcome:
    """Run the tests, all or until one fails; see `Outcome`."""
    if tests.calls:
        return _run_calls(code, tests, sandbox)
    return _run_programs(code, tests, sandbox, until_failure)


def _run_calls(code: str, tests: Suite, sandbox: Sandbox) -> Outcome:
    asked = [(arguments, keywords) for arguments, keywords, _ in tests.calls]
    results = sandbox.call_function(code, tests.entry_point, asked, limits=tests.limits)
    count, failures, passes = len(results), [], []
    for number, (result, (_, _, expected)) in enumerate(zip(results, tests.calls, strict=True), 1):
        if result.run.lost:
            return Outcome(0, count, "", False, False, result.run.reason)
        passes.append(result.returned and same(result.value, expected, tolerance=tests.tolerance, loose=tests.loose))
        if not passes[-1]:
            why = f"returned {_short(result.value)}, not {_short(expected)}" if result.returned else result.reason
            failures.append(f"test {number} of {count}: {why}")
    parsed, ran = not results[0].reason.startswith(_SYNTAX), any(r.returned for r in results)
    return Outcome(sum(passes), count, failures[0] if failures else "", parsed, ran, passes=tuple(passes))


def _run_programs(code: str, tests: Suite, sandbox: Sandbox, until_failure: bool) -> Outcome:
    count, passes, ran, failure = len(tests.programs), list[bool](), False, ""
    run = functools.partial(sandbox.run_python, code)
    if tests.language != "python":
        compiled = compile_program(sandbox, tests.language, code)
        if compiled.run.lost:
            return Outcome(0, count, "", False, False, compiled.run.reason)
        if compiled.program is None:
            said = "".join(c if c.isprintable() else " " for c in compiled.run.stderr[:300])
            why = f"does not compile: {' '.join(said.split()) or compiled.run.reason}"
            return Outcome(0, count, why, False, False)
        run = functools.partial(run_compiled, sandbox, compiled.program)
    limits = tests.limits
    if tests.language != "python":  # the program itself takes room in the scratch folder
        limits = Limits(wall=limits.wall, cpu=limits.cpu, memory=limits.memory, scratch=32 << 20)
    parsed = True
    for number, (stdin, stdout) in enumerate(tests.programs, 1):
        result = run(stdin=stdin, limits=limits)
        if result.lost:
            return Outcome(0, count, "", False, False, result.reason)
        why = _wrong(result, stdout, tests.tolerance)
        ran |= result.ended is Ended.FINISHED
        passes.append(not why)
        if why and not failure:
            failure = f"test {number} of {count}: {why}"
        if why and number == 1 and result.reason.startswith(_SYNTAX):
            parsed = False
        if why and (until_failure or not parsed):
            break
    return Outcome(sum(passes), count, failure, parsed, ran, passes=tuple(passes))


def _wrong(result: Result, expected: str, tolerance: float) -> str:
    """Why a program's run is no pass."""
    if result.ended is not Ended.FINISHED:
        return result.reason
    return "" if same_output(result.stdout, expected, tolerance=tolerance) else f"wrote {_short(result.stdout)}"


def same_output(output: str, expected: str, *, tolerance: float = 0.0) -> bool:
    """Whether two outputs are the same but for spaces at the ends of lines and empty lines at the end.

    tolerance: words that are numbers in both may differ by this share and difference

    >>> same_output("1 2 \\n\\n", "1 2"), same_output("0.3333", "0.33333", tolerance=1e-3), same_output("1  2", "1 2")
    (True, True, False)
    """
    mine, theirs = ([line.rstrip() for line in text.rstrip().split("\n")] for text in (output, expected))
    if mine == theirs:
        return True
    if not tolerance or len(mine) != len(theirs):
        return False
    pairs = [(a.split(), b.split()) for a, b in zip(mine, theirs, strict=True)]
    return all(len(a) == len(b) and all(_same_word(*words, tolerance) for words in zip(a, b, strict=True)) for a, b in pairs)


def _same_word(word: str, expected: str, tolerance: float) -> bool:
    if word == expected:
        return True
    try:
        return same(float(word), float(expected), tolerance=tolerance)
    except ValueError:
        return False


def read_tests(reference: Any) -> Suite:
    """A reference as tests; BadTestsError says what is wrong with it."""
    if not isinstance(reference, Mapping):
        raise BadTestsError(f"an object with tests is needed, got {type(reference).__name__}")
    known = {"entry_point", "cases", "stdin_cases", "language", "seconds", "memory_mb", "tolerance", "tuples_as_lists"}
    if unknown := sorted(set(reference) - known):
        raise BadTestsError(f"unknown field {unknown[0]!r}")
    if ("cases" in reference) == ("stdin_cases" in reference):
        raise BadTestsError('either "cases" or "stdin_cases" is needed')
    language = reference.get("language", "python")
    if language not in LANGUAGES or (language != "python" and "cases" in reference):
        raise BadTestsError(f"language must be one of {', '.join(LANGUAGES)}, and python for cases, got {language!r}")
    seconds, memory = _number(reference, "seconds", 10.0), _number(reference, "memory_mb", 512.0)
    tolerance = _number(reference, "tolerance", 0.0)
    try:
        limits = Limits(wall=seconds, cpu=seconds, memory=int(memory) << 20)
    except ValueError as error:
        raise BadTestsError(str(error)) from None
    calls, programs = [], []
    if "cases" in reference:
        calls = [_call(case, number) for number, case in enumerate(_several(reference["cases"], "cases"), 1)]
    else:
        programs = [_program(case, number) for number, case in enumerate(_several(reference["stdin_cases"], "stdin_cases"), 1)]
    entry_point = reference.get("entry_point", "")
    if calls and not (isinstance(entry_point, str) and all(part.isidentifier() for part in entry_point.split("."))):
        raise BadTestsError(f"entry_point must be the name of a function, got {entry_point!r}")
    return Suite(str(entry_point), calls, programs, language, limits, tolerance, reference.get("tuples_as_lists") is True)


def _number(reference: Mapping, name: str, default: float) -> float:
    number = reference.get(name, default)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number) or number < 0:
        raise BadTestsError(f"{name} must be a number >= 0, got {number!r}")
    return float(number)


def _several(cases: Any, name: str) -> Sequence:
    if not isinstance(cases, list | tuple) or not cases:
        raise BadTestsError(f"{name} must be a list with at least one test")
    return cases


def _call(case: Any, number: int) -> tuple[tuple, dict, Any]:
    if not isinstance(case, Mapping) or "returns" not in case or set(case) - {"args", "kwargs", "returns"}:
        raise BadTestsError(f'case {number} must have "args", "returns" and may have "kwargs"')
    try:
        arguments, keywords = untagged(case.get("args", [])), untagged(case.get("kwargs", {}))
        expected = untagged(case["returns"])
        dump([arguments, keywords, expected])
    except (NotPlainError, RecursionError) as error:
        raise BadTestsError(f"case {number}: {error}") from None
    if not isinstance(arguments, list | tuple) or not isinstance(keywords, dict) or not all(isinstance(k, str) for k in keywords):
        raise BadTestsError(f'case {number}: "args" must be a list and "kwargs" an object')
    return tuple(arguments), keywords, expected


def _program(case: Any, number: int) -> tuple[str, str]:
    if not isinstance(case, Mapping) or set(case) - {"stdin", "stdout"} or not isinstance(case.get("stdout"), str):
        raise BadTestsError(f'stdin case {number} must have "stdin" and "stdout"')
    if not isinstance(case.get("stdin", ""), str):
        raise BadTestsError(f"stdin case {number}: stdin must be text")
    return case.get("stdin", ""), case["stdout"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
