"""Partial credit by milestones: the score of a submission, what is paid without one, and that neither can be confused."""

import math
import time

import pytest
import torch

from payoff.rewards import resolve_reward
from payoff.rows import from_rows
from payoff.sandbox import Ended, Result, Sandbox, SandboxError
from payoff.signals.milestones import milestones

MARKS = [
    {"name": "read", "calls": ["input", "read"]},
    {"name": "trained", "calls": ["fit"]},
    {"name": "written", "calls": ["print"]},
]
LABELS = {"expected": [2, "b", 4], "stdin": "1 2", "milestones": MARKS}
NUMBERS = {"expected": [1.0, 3.0], "metric": "squared-error", "scale": 2.0, "milestones": MARKS}
MODEL = "class Model:\n    def fit(self, data, *, steps=1):\n        return self\n"


def grade(code, reference=LABELS, **options):
    return milestones(code, reference, isolation="process", **options)


def test_a_valid_submission_has_its_score_and_nothing_else():
    assert grade("print(2)\nprint('b ')\nprint(5)").value == pytest.approx(2 / 3)
    assert grade("for x in [2, 'b', 4]: print(x)").value == 1.0
    assert grade("print('x\\n' * 3)").value == 0.0
    # errors 0 and 1: -(0 + 1) / 2 / 2; absolute the same; errors of 9 end at -1
    assert grade("print(1)\nprint(2)", NUMBERS).value == -0.25
    assert grade("print(1)\nprint(1)", {**NUMBERS, "metric": "absolute-error"}).value == -0.5
    assert grade("print(10)\nprint(1e308)", NUMBERS).value == -1.0


def test_each_milestone_counts_once_and_only_when_its_call_returned():
    assert grade("x = input()\nx = input if 0 else x\nimport sys\nsys.stdin.read()\n1 / 0").value == pytest.approx(-9.9)
    verdict = grade(MODEL + "Model().fit(input(), steps=2)\nModel().fit(0)")
    assert verdict.value == pytest.approx(-9.8)
    assert verdict.reason == "0 values, not 3; reached: read, trained"
    failing = MODEL.replace("return self", "raise ValueError('no')")
    assert grade(failing + "Model().fit(0)") == (-10.0, True, "ValueError: no; reached: none")
    assert grade("outfit = lambda: 1\noutfit()\nraise SystemExit(3)").value == -10.0  # another name


def test_programs_run_as_they_would_alone():
    code = (
        "from __future__ import annotations\nimport sys, dataclasses\n@dataclasses.dataclass\nclass P:\n    x: Missing = 2\n"
        "def main():\n    print(P().x); print('b')\n    print(sys.modules['__main__'].P(4).x)\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    assert grade(code).value == 1.0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "no code"),
        ("x = (", "SyntaxError"),
        ("import missing", "ModuleNotFoundError"),
        ("while True: pass", "longer than 1 s"),
        ("print('x' * 10**9)", ""),
        ("import os\nos.kill(os.getpid(), 9)", ""),
        ("import os\nos.abort()", "signal SIGABRT"),
        ("def f(): f()\nf()", "RecursionError"),
        ("x = " + "(" * 5000 + ")" * 5000, "too many nested"),
        ("x = " + "-" * 100_000 + "1", ""),
        ("print('nan')\nprint('inf')\nprint(1)", "a value that is not finite"),
        ("import sys\nsys.stderr.write('\\n0 0\\n' * 100)\nopen('/etc/passwd').read()", ""),
        ("'" + "x" * 300_000 + "'", "more than 200000 characters"),
    ],
)
def test_without_a_submission_it_is_the_failure_and_what_was_reached(code, reason):
    began = time.monotonic()
    verdict = grade(code, {**LABELS, "metric": "absolute-error", "expected": [1, 2, 3], "seconds": 1})
    assert verdict.valid
    assert -10.0 <= verdict.value <= -9.7 + 1e-9
    assert reason in verdict.reason
    assert time.monotonic() - began < 6


def test_forged_marks_never_reach_a_submission():
    forging = "import sys\nfor k in range(50): _payoff_mark(k, 0)\nfor k in range(9): print(k)"
    verdict = grade(forging)
    assert verdict.value == pytest.approx(-9.7)
    guessed = "import sys\nfor k in range(3): sys.stderr.write(f'\\n{'0' * 32} {k}\\n')\nsys.exit(1)"
    assert grade(guessed.replace("'0' * 32", '"0" * 32')).value == -10.0
    assert verdict.value < grade("print('x\\n' * 3)").value


def test_what_is_expected_is_nowhere_in_the_process():
    secret = "7193640158826"
    hunt = (
        "import gc, sys\ndef hunt():\n    wanted = str(int('7193640158825') + 1)\n"
        "    kept = [x for x in gc.get_objects() if isinstance(x, (tuple, list, dict))]\n"
        "    return any(wanted in str(x) for x in kept) or wanted in sys.stdin.read()\n"
        "print(int('7193640158825') + 1 if hunt() else 'nothing')"
    )
    assert grade(hunt, {"expected": [secret]}).value == 0.0


def test_partial_credit_that_would_reach_a_submission_is_no_verdict():
    for options in ({"credit": 4.0}, {"failure": -0.3}):
        verdict = grade("print(1)", **options)
        assert not verdict.valid
        assert "where submissions begin at 0" in verdict.reason
    assert not grade("print(1)", NUMBERS, failure=-1.2).valid
    assert grade("x = 1", NUMBERS, failure=-2.0).valid
    with pytest.raises(ValueError, match="credit must be >= 0"):
        milestones("", LABELS, credit=-1.0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"expected": []}, '"expected" must be a list'),
        ({"expected": None}, '"expected" must be a list'),
        ({"metric": "f1"}, "metric must be one of"),
        ({"metric": "absolute-error"}, "finite numbers"),
        ({"scale": 0}, "numbers > 0"),
        ({"seconds": math.inf}, "numbers > 0"),
        ({"memory_mb": 1}, "memory must be at least"),
        ({"stdin": 3}, '"stdin" must be text'),
        ({"milestones": [{"name": "x"}]}, "a milestone is an object"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_a_reference_that_expects_nothing_gives_no_verdict(change, why):
    verdict = grade("print(1)", {**LABELS, **change})
    assert not verdict.valid
    assert why in verdict.reason
    assert not grade("print(1)", None).valid


def test_a_lost_run_and_a_level_that_cannot_be_had_give_no_verdict(monkeypatch):
    lost = Result(Ended.LOST, None, "", "", 0.0, 0.0, 0, False, "process", (), "the sandbox's server died", b"")
    monkeypatch.setattr(Sandbox, "run", lambda self, *a, **k: lost)
    assert grade("print(1)") == (0.0, False, "lost: the sandbox's server died")

    def refuse(self, *a, **k):
        raise SandboxError("no namespaces")

    monkeypatch.setattr(Sandbox, "run", refuse)
    assert grade("print(1)") == (0.0, False, "cannot be judged here: no namespaces")


def test_rows_are_scored_by_name():
    try:
        Sandbox().run_python("")
    except SandboxError as error:
        pytest.skip(str(error))
    rows = [{"response": code, "reference": LABELS} for code in ("for x in [2, 'b', 4]: print(x)", "input()\n1 / 0")]
    found = resolve_reward("milestones")(from_rows(rows))["milestones"]
    assert torch.allclose(found.value.sum(1), torch.tensor([1.0, -9.9]))
