"""Every attempt of the corpus at every level that this machine can give: none succeeds, no honest program fails.

An attempt is a file: comments on top say what it tries and, where it is not the usual one, the reference it is graded by. It
succeeds if it is given anything but a plain 0: a reward, or no verdict at all, which would save it from a bad one. An attempt at
isolation defines `attack`, which gives True only if the forbidden thing worked; one at grading is asked for secrets that exist only
here. Each is made twice, so that the second could find what the first left behind.
"""

import gc
import json
import os
import random
import re
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from payoff.sandbox import LEVELS, Sandbox, SandboxError
from payoff.sandbox.starting import _running
from payoff.signals.code import Suite, read_tests, run_tests

HERE = Path(__file__).parent
ISOLATION = ("network", "files", "processes", "privileges", "limits", "persistence")
GRADING = ("forgery", "equality", "introspection", "output", "tools")
FIELDS = re.compile(r"(?:#|//) (tries|reference|seconds|levels|language): (.*)")
RUNS_AT_ONCE = 6


class Attempt:
    def __init__(self, path: Path) -> None:
        lines = path.read_text(encoding="utf-8").split("\n")
        head, self.code = lines[: lines.index("")], "\n".join(lines[lines.index("") :])
        self.name, self.family = f"{path.parent.name}/{path.stem}", path.parent.name
        fields = dict(match.groups() for line in head if (match := FIELDS.fullmatch(line)))
        assert fields.get("tries"), f"{path} does not say what it tries"
        self.tries, self.language = fields["tries"], fields.get("language", "python")
        self.levels = ("strict",) if self.family == "tools" else tuple(fields.get("levels", "strict process").split())
        self.seconds = float(fields.get("seconds", 20))
        self._reference = fields.get("reference")

    def reference(self) -> dict:
        """What it is graded by; secrets are drawn anew each time."""
        secret = random.SystemRandom().randrange(1 << 55, 1 << 62)
        if self.language != "python" or self._reference == "stdin":
            tests = {"stdin_cases": [{"stdin": f"{k}\n", "stdout": str(secret + k)} for k in range(2)]}
            return {**tests, "language": self.language, "seconds": self.seconds}
        if self._reference is not None:
            return {"seconds": self.seconds, **json.loads(self._reference)}
        if self.family in ISOLATION:
            return {"entry_point": "attack", "cases": [{"args": [], "returns": True}], "seconds": self.seconds}
        cases = [{"args": [k], "returns": secret * (k + 1)} for k in range(3)]
        return {"entry_point": "solve", "cases": cases, "seconds": self.seconds}


@cache
def corpus() -> list[Attempt]:
    return [Attempt(path) for path in sorted(HERE.glob("*/*")) if path.suffix in (".py", ".c", ".cpp")]


@pytest.fixture(params=LEVELS)
def sandbox(request):
    sandbox = Sandbox(request.param, concurrency=RUNS_AT_ONCE)
    try:
        sandbox.run_python("")
    except SandboxError as error:
        if request.param == "process":
            raise
        pytest.skip(str(error))
    return sandbox


def outcome(attempt: Attempt, sandbox: Sandbox):
    tests: Suite = read_tests(attempt.reference())
    return run_tests(attempt.code, tests, sandbox)


def every(sandbox: Sandbox, attempts: list[Attempt], judge) -> dict[str, str]:
    """What is wrong with each attempt that something is wrong with."""
    with ThreadPoolExecutor(RUNS_AT_ONCE) as pool:
        slow_first = sorted(attempts, key=lambda a: (a.seconds > 4, a.family != "tools"))
        answers = dict(zip([a.name for a in slow_first], pool.map(lambda a: judge(a, sandbox), slow_first), strict=True))
    return {name: wrong for name, wrong in answers.items() if wrong}


def success_of(attempt: Attempt, sandbox: Sandbox) -> str:
    """What an attempt achieved, if anything."""
    for _ in range(2 if attempt.family == "persistence" else 1):
        found = outcome(attempt, sandbox)
        if found.lost:
            return f"escaped a verdict: {found.lost}"
        if found.passed:
            return f"passed {found.passed} of {found.tests}"
        if not found.reason or not found.reason.isprintable():
            return f"its reason cannot be shown: {found.reason!r}"
    return ""


@pytest.mark.slow
def test_no_attack_succeeds(sandbox):
    attempts = [a for a in corpus() if a.family != "honest" and sandbox.level in a.levels]
    if shutil.which("gcc") is None or shutil.which("g++") is None:
        attempts = [a for a in attempts if a.family != "tools"]
    began = threading.active_count()
    assert every(sandbox, attempts, success_of) == {}
    assert threading.active_count() <= began + 1
    assert sandbox.run_python("print('still here')").stdout == "still here\n"


@pytest.mark.slow
def test_no_honest_program_fails(sandbox):
    honest = [a for a in corpus() if a.family == "honest" and sandbox.level in a.levels]
    if shutil.which("gcc") is None or shutil.which("g++") is None:
        honest = [a for a in honest if not a.name.startswith("honest/in_c")]
    found = every(sandbox, honest, lambda a, s: (o := outcome(a, s)).lost or o.reason)
    assert found == {}


def test_nothing_outlives_the_attempts(sandbox):
    """Run last of this file: no process is left below a server, and no descriptor has leaked."""
    lasting = "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid(); time.sleep(99)\n"
    for _ in range(5):
        sandbox.run_python(lasting)
    gc.collect()  # what earlier tests left open is not closed between the two counts
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        sandbox.run_python("print(1)")
    assert len(os.listdir("/proc/self/fd")) <= before
    for kind, server in _running.items():
        if kind.level == sandbox.level:
            deadline = time.monotonic() + 5
            children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
            while len(children.read_text().split()) > 1 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(children.read_text().split()) == 1  # the process that runs are forked by


def test_the_corpus_is_as_large_and_as_varied_as_it_claims():
    families = Counter(attempt.family for attempt in corpus())
    assert set(families) == {*ISOLATION, *GRADING, "honest"}
    assert sum(families[family] for family in (*ISOLATION, *GRADING)) >= 150
    assert families["honest"] >= 30
    assert len({(a.code.strip(), a._reference) for a in corpus()}) == len(corpus()), "two files are the same attempt"
    assert len({a.tries for a in corpus()}) == len(corpus()), "two files try the same"
