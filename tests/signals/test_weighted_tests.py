"""VeRPO's weights over tests that are run in the sandbox: hard tests weigh more, look-alikes count once."""

import math

import pytest

from payoff.rewards import as_signal, resolve_reward
from payoff.rows import from_rows
from payoff.sandbox import Ended, Result, Sandbox, SandboxError
from payoff.signals.check_weights import weighted_checks
from payoff.signals.weighted_tests import verpo_tests

TESTS = {"entry_point": "f", "cases": [{"args": [k], "returns": k} for k in range(4)]}
PROGRAMS = ["def f(k): return 0", "def f(k): return k", "def f(k): return min(k, 1)", "def f(k)"]


def graded(programs=PROGRAMS, reference=TESTS, **options):
    return verpo_tests(programs, [reference] * len(programs), isolation="process", **options)


def turns(verdicts):
    return [verdict.value["verpo-turns"] for verdict in verdicts]


def test_weights_by_hand():
    # passed: 0 by three of four, 1 by two, 2 and 3 by one. With a narrow band: densities 1, 1, 2, 2, weights exp(-2 rho) / density
    a, b, c = math.exp(-1.5), math.exp(-1.0), math.exp(-0.5) / 2
    found = graded(bandwidth=1e-3)
    assert turns(found) == pytest.approx([a, a + b + 2 * c, a + b, 0.0], abs=1e-5)
    assert [verdict.value["verpo-outcome"] for verdict in found] == [0.0, 0.95, 0.0, 0.0]
    assert found[0].reason == "test 2 of 4: returned 0, not 1"


def test_it_is_the_signal_of_recorded_checks():
    checks = [[True, False, False, False], [True] * 4, [True, True, False, False], [False] * 4]
    traj = from_rows([{"prompt": "p", "response": "r", "checks": row} for row in checks])
    wanted = weighted_checks(traj)
    found = graded()
    assert turns(found) == pytest.approx(wanted["verpo-turns"].value.sum(1).tolist(), abs=1e-6)
    assert [v.value["verpo-outcome"] for v in found] == pytest.approx(wanted["verpo-outcome"].value.sum(1).tolist())


def test_copies_of_an_easy_test_hardly_count():
    easy = [{"args": [0], "returns": 0}] * 16
    many = {"entry_point": "f", "cases": [*easy, {"args": [3], "returns": 3}]}
    one = {"entry_point": "f", "cases": [easy[0], {"args": [3], "returns": 3}]}
    assert turns(graded(PROGRAMS[:2], many)) == pytest.approx(turns(graded(PROGRAMS[:2], one)), abs=1e-4)


def test_a_test_that_nobody_passes_pays_nothing_and_a_failing_group_still_differs():
    impossible = {"entry_point": "f", "cases": [*TESTS["cases"], {"args": [9], "returns": -1}]}
    low, high = turns(graded(PROGRAMS[::2][:2], impossible))
    assert 0 < low < high


def test_every_turn_has_a_program_of_its_own():
    steps = [["```python\n" + code + "\n```\n" for code in (PROGRAMS[0], PROGRAMS[1])], ["no idea", PROGRAMS[2], PROGRAMS[0]]]
    found = verpo_tests(["", ""], [TESTS] * 2, steps, turns=True, isolation="process", discount=0.5)
    assert [len(paid) for paid in turns(found)] == [2, 3]
    assert turns(found)[1][0] == 0.0
    assert turns(found)[0][0] == turns(found)[1][2] < turns(found)[1][1] < turns(found)[0][1]
    assert [verdict.value["verpo-outcome"] for verdict in found] == [0.25, 0.0]


def test_hostile_programs_pass_nothing():
    hostile = [
        "import os\nos._exit(0)",
        "def f(k):\n    while True: pass",
        "class E(int):\n    def __eq__(self, o): return True\ndef f(k): return E()",
        "import payoff.signals.weighted_tests as w\nw._passes = None",
        "def f(k): return [0] * 10**9",
    ]
    found = graded(hostile, {**TESTS, "seconds": 1})
    assert turns(found) == [0.0] * 5
    assert all(verdict.valid for verdict in found)


def test_members_and_groups_that_cannot_be_judged_have_no_verdict(monkeypatch):
    assert not any(verdict.valid for verdict in graded(reference={"cases": 1}))
    other = verpo_tests(PROGRAMS[:2], [TESTS, {**TESTS, "seconds": 3}], isolation="process")
    assert [verdict.valid for verdict in other] == [True, False]
    lost = Result(Ended.LOST, None, "", "", 0.0, 0.0, 0, False, "process", (), "the sandbox's server died", b"")
    real = Sandbox.run
    monkeypatch.setattr(Sandbox, "run", lambda self, job, **k: lost if "min" in str(job) else real(self, job, **k))
    found = graded()
    assert [verdict.valid for verdict in found] == [True, True, False, True]
    assert turns(found)[:2] == turns(graded([PROGRAMS[0], PROGRAMS[1], PROGRAMS[3]]))[:2]

    def refuse(self, *a, **k):
        raise SandboxError("no namespaces")

    monkeypatch.setattr(Sandbox, "run", refuse)
    assert {verdict.reason for verdict in graded()} == {"cannot be judged here: no namespaces"}


def test_options_out_of_range_are_refused():
    for options in ({"bandwidth": 0.0}, {"floor": 0.0}, {"discount": 1.5}):
        with pytest.raises(ValueError, match="bandwidth and floor must be positive"):
            graded(**options)


def test_rows_are_scored_by_name_group_by_group():
    rows = [{"prompt": p, "response": PROGRAMS[k], "reference": TESTS} for p, k in (("a", 0), ("b", 1), ("a", 1), ("b", 2))]
    try:
        found = resolve_reward("verpo-tests")(from_rows(rows))
        assert found["verpo-outcome"].valid.any(1).all()
    except (SandboxError, AssertionError):
        pytest.skip("the level strict cannot be had here")
    assert found["verpo-outcome"].value.sum(1).tolist() == pytest.approx([0.0, 0.95, 0.95, 0.0])
    of_a, of_b = turns(graded(PROGRAMS[:2])), turns(graded(PROGRAMS[1:3]))
    assert found["verpo-turns"].value.sum(1).tolist() == pytest.approx([of_a[0], of_b[0], of_a[1], of_b[1]])
    assert as_signal(verpo_tests, "verpo-tests").sees == "group"
