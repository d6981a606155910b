"""Code graded by tests it never sees: what counts as right, what is wrong, and what is no verdict."""

import json

import pytest
from typer.testing import CliRunner

from payoff.cli import app
from payoff.rewards import resolve_reward
from payoff.rows import from_rows
from payoff.sandbox import Ended, Result, Sandbox, SandboxError
from payoff.signals.code import code_fraction, code_tests, compile_tiers, final_code, read_tests, same_output

LEVEL = "process"  # what every machine can give; tests/attacks runs the same graders at every level
TWICE = {"entry_point": "twice", "cases": [{"args": [3], "returns": 6}, {"args": ["ab"], "returns": "abab"}]}


def suite(returns, *, args=(), **more):
    return {"entry_point": "f", "cases": [{"args": list(args), "returns": returns}], **more}


def grade(code, reference):
    return code_tests(code, reference, isolation=LEVEL)


@pytest.mark.parametrize(
    ("returned", "expected", "right"),
    [
        ("1", 1, True),
        ("True", 1, False),
        ("1", True, False),
        ("1.0", 1, False),
        ("1", 1.0, False),
        ("'1'", 1, False),
        ("(1, 2)", [1, 2], False),
        ("(1, 2)", {"$tuple": [1, 2]}, True),
        ("{1, 2}", {"$set": [2, 1]}, True),
        ("{True, 2}", {"$set": [2, 1]}, False),
        ("frozenset({1})", {"$set": [1]}, False),
        ("{'b': 1, 'a': [None]}", {"a": [None], "b": 1}, True),
        ("{1: 2}", {"1": 2}, False),
        ("{1: 2}", {"$dict": [[1, 2]]}, True),
        ("b'a'", {"$bytes": "61"}, True),
        ("float('nan')", {"$float": "nan"}, True),
        ("0.1 + 0.2", 0.3, False),
        ("-0.0", 0.0, True),
        ("2j", {"$complex": [0, 2]}, True),
        ("10 ** 400", 10**400, True),
        ("iter([1])", [1], False),
        ("None", None, True),
    ],
)
def test_types_count(returned, expected, right):
    assert grade(f"def f(): return {returned}", suite(expected)).value == float(right)


def test_tolerance_is_a_share_and_a_difference():
    code = "def f(x): return x"
    assert grade(code, suite(0.3, args=[0.1 + 0.2], tolerance=1e-12)).value == 1.0
    assert grade(code, suite(1000.0, args=[1000.9], tolerance=1e-3)).value == 1.0
    assert grade(code, suite(1000.0, args=[1001.1], tolerance=1e-3)).value == 0.0
    assert grade(code, suite({"a": [0.0]}, args=[{"a": [5e-4]}], tolerance=1e-3)).value == 1.0
    assert grade(code, suite(1, args=[1.0], tolerance=1e-3)).value == 0.0


def test_tuples_may_count_as_lists_where_the_reference_says_so():
    code = "def f(): return ((1, 2), [3])"
    assert grade(code, suite([[1, 2], [3]])).value == 0.0
    assert grade(code, suite([[1, 2], [3]], tuples_as_lists=True)).value == 1.0


def test_every_failure_is_a_zero_with_a_reason_a_person_can_read():
    reasons = {
        "def twice(x): return 6": "test 2 of 2: returned 6, not 'abab'",
        "def twice(x): raise KeyError(x)": "test 1 of 2: KeyError: 3",
        "def twice(x): return iter(x)": "test 1 of 2: TypeError: 'int' object is not iterable",
        "def twice(x): return {x}.pop": "test 1 of 2: NotPlainError: an instance of 'builtin_function_or_method' is not plain data",
        "def other(x): return x": "test 1 of 2: NameError: the program defines no 'twice'",
        "import os; os._exit(0)": "test 1 of 2: the program ended before it answered (exit code 0)",
    }
    for code, reason in reasons.items():
        verdict = grade(code, TWICE)
        assert (verdict.value, verdict.valid, verdict.reason) == (0.0, True, reason)
    assert grade("", TWICE).reason == "no code"
    assert "longer than 0.3 s" in grade("def twice(x):\n    while 1: pass", {**TWICE, "seconds": 0.3}).reason


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        (None, "an object with tests is needed, got NoneType"),
        ("6", "got str"),
        ({}, 'either "cases" or "stdin_cases"'),
        ({**TWICE, "stdin_cases": []}, 'either "cases" or "stdin_cases"'),
        ({"entry_point": "f", "cases": []}, "at least one test"),
        ({"entry_point": "f", "cases": [{"args": [1]}]}, "case 1 must have"),
        ({"entry_point": "f", "cases": [{"args": 1, "returns": 1}]}, '"args" must be a list'),
        ({"entry_point": "not a name", "cases": [{"returns": 1}]}, "entry_point must be the name"),
        ({"cases": [{"returns": 1}]}, "entry_point must be the name"),
        ({"entry_point": "f", "cases": [{"returns": {"$what": 1}}]}, "is none of"),
        ({"entry_point": "f", "cases": [{"returns": {"$set": [[1]]}}]}, "unhashable"),
        ({**TWICE, "seconds": -1}, "seconds must be a number"),
        ({**TWICE, "seconds": 0}, "cpu must be seconds > 0"),
        ({**TWICE, "language": "c"}, "python for cases"),
        ({**TWICE, "extra": 1}, "unknown field 'extra'"),
        ({"stdin_cases": [{"stdin": 1, "stdout": "a"}]}, "stdin must be text"),
        ({"stdin_cases": [{"stdin": "a"}]}, 'must have "stdin" and "stdout"'),
    ],
)
def test_a_reference_that_holds_no_tests_gives_no_verdict(reference, why):
    verdict = grade("def f(): return 1", reference)
    assert not verdict.valid
    assert why in verdict.reason


def test_a_lost_run_gives_no_verdict(monkeypatch):
    lost = Result(Ended.LOST, None, "", "", 0.0, 0.0, 0, False, LEVEL, (), "the sandbox's server died", b"")
    monkeypatch.setattr(Sandbox, "run", lambda self, *a, **k: lost)
    for reference in (TWICE, {"stdin_cases": [{"stdout": "1"}]}):
        verdict = grade("print(1)", reference)
        assert (verdict.valid, verdict.reason) == (False, "lost: the sandbox's server died")


def test_the_last_complete_block_is_the_code():
    assert final_code("a\n```python\n1\n```\nb\n```py\n2\n```\nc") == "2\n"
    assert final_code("```\n1\n```\nand\n```python\n2") == "1\n"
    assert final_code("~~~\n```\n1\n```\n~~~") == "```\n1\n```\n"
    assert final_code("x = '```'") is None  # a fence, though not at the start of a line: nothing tells it from prose
    assert final_code("no fence") == "no fence"
    assert final_code("```\n\n```") is None
    assert final_code(" \n") is None


def test_output_is_compared_by_lines():
    assert same_output("1\n2\n", "1\r\n2".replace("\r", " "))
    assert same_output("", "\n\n")
    assert not same_output("1\n\n2", "1\n2")
    assert not same_output(" 1", "1")
    assert same_output("x 0.30001", "x 0.3", tolerance=1e-3)
    assert not same_output("y 0.30001", "x 0.3", tolerance=1e-3)
    assert not same_output("nan", "0.3", tolerance=1e9)


def test_programs_are_started_afresh_for_each_test():
    code = "import builtins\nprint(getattr(builtins, 'seen', 0) + int(input()))\nbuiltins.seen = 1"
    reference = {"stdin_cases": [{"stdin": "1", "stdout": "1"}, {"stdin": "2", "stdout": "2"}]}
    assert grade(code, reference).value == 1.0


def test_the_fraction_counts_what_passed_and_goes_on_after_a_crash():
    cases = [{"args": [k], "returns": k} for k in range(4)]
    code = "import os\ndef f(n):\n    if n == 1: os.abort()\n    return -1 if n == 2 else n"
    verdict = code_fraction(code, {"entry_point": "f", "cases": cases}, isolation=LEVEL)
    assert verdict.value == 0.5
    assert verdict.reason == "test 2 of 4: signal SIGABRT"


def test_tiers_of_programs():
    reference = {"stdin_cases": [{"stdin": "3", "stdout": "6"}, {"stdin": "4", "stdout": "8"}]}
    codes = ("print(", "1 / 0", "print(6)", "print(2 * int(input()))")
    assert [compile_tiers(code, reference, isolation=LEVEL).value for code in codes] == [0.0, 0.1, 0.3, 1.0]
    with pytest.raises(ValueError, match="0 <= parses <= runs <= 1"):
        compile_tiers("", reference, parses=0.5)


def test_a_level_that_cannot_be_had_is_no_zero():
    with pytest.raises(SandboxError, match='level "strict" only'):
        grade("int main(){}", {"language": "c", "stdin_cases": [{"stdout": "1"}]})
    with pytest.raises(ValueError, match="level must be one of"):
        code_tests("x", TWICE, isolation="none")


def test_references_are_read_once_and_whole():
    found = read_tests({**TWICE, "seconds": 3, "memory_mb": 64, "tolerance": 0.5})
    assert (found.limits.wall, found.limits.memory, found.tolerance) == (3.0, 64 << 20, 0.5)
    assert found.calls == [((3,), {}, 6), (("ab",), {}, "abab")]


@pytest.fixture
def strict():
    try:
        Sandbox().run_python("")
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("strict")
def test_the_reward_is_found_by_name_and_scores_rows():
    rows = [
        {"response": "def twice(x): return x * 2", "reference": TWICE},
        {"response": "Sure!\n```python\ndef twice(x): return 6\n```", "reference": TWICE},
        {"response": "def twice(x): return 6", "reference": {"cases": 3}},
    ]
    traj = from_rows(rows)
    channel = resolve_reward("code_tests")(traj)["code-tests"]
    assert channel.value.sum(1).tolist() == [1.0, 0.0, 0.0]
    assert [channel.valid[k].any().item() for k in range(3)] == [True, True, False]
    share = resolve_reward("code-fraction")(traj)["code-fraction"]
    assert share.value.sum(1).tolist() == [1.0, 0.5, 0.0]


@pytest.mark.usefixtures("strict")
@pytest.mark.slow
def test_the_command_scores_a_file_of_rows(tmp_path):
    rows = [
        {"response": "def twice(x): return x * 2", "reference": TWICE},
        {"response": "def twice(x): return 6", "reference": TWICE},
    ]
    data, out = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(app, ["score", "--reward", "code_tests", "--data", str(data), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["reward"] for line in out.read_text().splitlines()] == [{"code-tests": 1.0}, {"code-tests": 0.0}]
