"""Mathematical answers: many forms of one answer, near misses, which answer counts, limits, threads and forks."""

import json
import multiprocessing
import os
import signal as signals
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from payoff.pipeline import Verdict
from payoff.signals.math_answers import final_answers, math_answer
from payoff.signals.math_verifier import VERIFIER, Verifier

DATA = Path(__file__).parent / "data"


def rows(name):
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


def boxed(row):
    return f"So it is $\\boxed{{{row['answer']}}}$."


def decided_here(monkeypatch):
    monkeypatch.setattr(VERIFIER, "ask", lambda *_: (None, "asked"))


def test_the_files_hold_as_many_distinct_pairs_as_promised():
    forms, misses = rows("equivalent_forms"), rows("near_misses")
    assert len({(r["answer"], r["reference"]) for r in forms}) >= 500
    assert len({(r["answer"], r["reference"]) for r in misses}) >= 300
    assert min(len({r["kind"] for r in forms}), len({r["kind"] for r in misses})) >= 60


@pytest.mark.slow
@pytest.mark.parametrize(("name", "right"), [("equivalent_forms", 1.0), ("near_misses", 0.0)])
def test_every_form_of_an_answer_is_paid_and_no_near_miss(name, right):
    pytest.importorskip("math_verify")
    assert [row for row in rows(name) if math_answer(boxed(row), row["reference"]) != right] == []


@pytest.mark.parametrize(("name", "right"), [("equivalent_forms", 1.0), ("near_misses", 0.0)])
def test_nearly_all_of_them_are_decided_without_algebra_by_others(name, right, monkeypatch):
    decided_here(monkeypatch)
    found = [math_answer(boxed(row), row["reference"]) for row in rows(name)]
    assert all(value == right for value in found if not isinstance(value, Verdict))
    assert sum(isinstance(value, Verdict) for value in found) <= 0.02 * len(found)


@pytest.mark.slow
def test_math_verify_alone_is_wrong_more_often_on_both():
    package = pytest.importorskip("math_verify")
    for name, right, every in (("equivalent_forms", True, 12), ("near_misses", False, 4)):
        some = rows(name)[::every]
        theirs = sum(package.verify(package.parse(f"${r['reference']}$"), package.parse(boxed(r))) is not right for r in some)
        assert theirs > 0.02 * len(some), name


@pytest.mark.parametrize(
    ("response", "reference", "right"),
    [
        ("59 plus 63 is 122. The answer is 122", "122", True),
        ("The answer is 122 or 126", "122", False),
        ("The answer is 122 and 126", "122", False),
        ("The answer is either 126 or 122.", "122", False),
        (r"\boxed{122} or \boxed{126}", "122", False),
        (r"\boxed{126}, \boxed{122}", "122", False),
        (r"\boxed{2} and \boxed{3}", "3, 2", True),
        (r"First \boxed{122}. Then again: \boxed{126}", "122", False),
        (r"First \boxed{126}. Then again: \boxed{122}", "122", True),
        ("I think it is 122 or 126", "122", False),
        ("river paper 122 seven under quickly", "122", False),
        ("122 river paper seven under quickly many words", "122", False),
        ("122\n126", "122", False),
        ("126\n122", "122", True),
        ("The answer is 122.\n\nNo, that is wrong, and I have no answer.", "122", False),
        ("The answer is 122. Or 126.", "122", False),
        ("The answer is 122 because 59+63=122.", "122", True),
        ("**Final answer:**\n\n$$x=12$$", "12", True),
        ("<answer> 12 </answer>", "12", True),
        ("<answer>12", "12", False),
        (r"\boxed{12", "12", False),
        ("#### 1,234", "1234", True),
        ("<think>The answer is 5</think> 6", "6", True),
        ("<think>The answer is 5</think>", "5", False),
        ("The solutions are $x=1$ and $x=2$.", "1, 2", True),
        ("The solution is $x=1$, not $x=2$.", "2", False),
        ("There are 7 apples.", "7", True),
        ("So the probability is 25%.", "1/4", True),
        ("The capital is Paris.", "Paris", True),
        ("not 122", "122", False),
        ("", "122", False),
        ("40 + 2 = 42", "First 40 + 2.\n#### 42", True),
        (r"\boxed{3}", ["2", "3"], True),
        (r"\boxed{3}", ["2", None, ""], False),
        ("7", 7, True),
        ("0.5", 0.5, True),
    ],
)
def test_exactly_the_one_final_answer_counts(response, reference, right, monkeypatch):
    decided_here(monkeypatch)
    assert math_answer(response, reference) == float(right)


def test_equations_are_compared_alike_whatever_order_their_letters_hash_to():
    code = "from payoff.signals.math_answers import math_answer; print(math_answer('y=2x+3z+w', '2x-y+3z+w=0'))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": str(k)}, capture_output=True, text=True, check=True
        ).stdout
        for k in range(2)
    }
    assert said == {"1.0\n"}


@pytest.mark.parametrize("reference", [None, "", "  ", [], [None]])
def test_without_a_reference_there_is_no_verdict(reference):
    verdict = math_answer("7", reference)
    assert isinstance(verdict, Verdict)
    assert not verdict.valid
    assert "no reference" in verdict.reason


def test_a_time_limit_must_be_positive():
    with pytest.raises(ValueError, match="time_limit must be > 0, got 0"):
        math_answer("7", "7", time_limit=0.0)


@pytest.mark.parametrize(
    "response",
    [
        *("9" * 10**5, "1e999999999", "9^9^9^9^9", "1/0", "10^{10^{10}}", "(" * 10**5, "2^" * 10**4, "10000000!"),
        *(r"\boxed{" * 10**4, r"\boxed{1} or " * 10**4, "answer is " * 10**4, "####" * 10**4, "$ . " * 10**4, "1," * 10**5),
        *(" " * 10**5 + "x", "9" * 400, "(x+y+z)^{999}", r"\text{" * 10**4, "1 " * 10**4, r"\boxed{" + "{" * 500 + "}" * 501),
    ],
)
def test_a_response_made_to_be_slow_is_refused_quickly_and_here(response, monkeypatch):
    decided_here(monkeypatch)
    start = time.process_time()
    assert math_answer(response, "7") == 0.0
    assert time.process_time() - start < 1.0


@pytest.mark.slow
def test_a_comparison_that_does_not_end_is_killed_and_the_next_one_works():
    pytest.importorskip("math_verify")
    assert math_answer(r"\boxed{\sin^2 x}", r"1-\cos^2 x") == 1.0
    start = time.monotonic()
    value, _ = VERIFIER.ask(["2^{2^{2^{2^{2^{3}}}}}+x"], ["3^{2^{2^{2^{2^{3}}}}}+x"], 1.0)
    assert time.monotonic() - start < 20
    assert value is None or value == 0.0
    assert math_answer(r"\boxed{\sin^2 x}", r"1-\cos^2 x") == 1.0


@pytest.mark.slow
def test_a_process_that_stops_answering_costs_one_verdict_and_no_more():
    pytest.importorskip("math_verify")
    own = Verifier()
    assert own.ask([r"\sin x"], [r"\cos x"], 20.0) == (0.0, "")
    stuck = own._process.pid
    os.kill(stuck, signals.SIGSTOP)
    start = time.monotonic()
    assert own.ask([r"\sin x"], [r"\cos x"], 0.5) == (None, "no verdict within 0.5 s")
    assert time.monotonic() - start < 5
    assert own.ask([r"\sin x"], [r"\sin x"], 20.0) == (1.0, "")
    os.kill(own._process.pid, signals.SIGKILL)
    assert own.ask([r"\sin x"], [r"\sin x"], 20.0)[0] in (None, 1.0)
    assert own.ask([r"\sin x"], [r"\sin x"], 20.0) == (1.0, "")
    own.close()
    assert own._process is None
    with pytest.raises(ProcessLookupError):
        os.kill(stuck, 0)


@pytest.mark.slow
def test_threads_and_forked_children_get_verdicts_too():
    pytest.importorskip("math_verify")
    found = []
    threads = [threading.Thread(target=lambda: found.append(math_answer(r"\boxed{\sin^2 x}", r"1-\cos^2 x"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [1.0, 1.0, 1.0]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(math_answer, (r"\boxed{\sin x}", r"\cos x")).get(60) == 0.0
    assert math_answer(r"\boxed{\sin^2 x}", r"1-\cos^2 x") == 1.0


def test_what_cannot_be_compared_in_time_is_invalid_and_says_so(monkeypatch):
    monkeypatch.setattr(VERIFIER, "ask", lambda answers, references, limit: (None, f"no verdict within {limit:g} s"))
    verdict = math_answer(r"\boxed{\sin^2 x}", r"1-\cos^2 x", time_limit=2.5)
    assert not verdict.valid
    assert "no verdict within 2.5 s" in verdict.reason


def test_readings_of_a_response_are_the_marked_answer_or_what_its_last_line_says():
    assert final_answers("so x = 3\nThus y = 5.") == ("Thus y = 5.",)
    assert final_answers(r"\fbox{4} is wrong, so \boxed{5}") == ("5",)
    assert final_answers("nothing here at all") == ("nothing here at all",)
