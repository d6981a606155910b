import time

import pytest

from payoff.audit.oversized import KINDS, oversized
from payoff.audit.scorer import Scorer
from payoff.grading import signal

ROWS = [{"prompt": f"{k}?", "response": str(k), "reference": str(k), "ok": 1} for k in range(80)]


def results(grader, **options):
    options = {"gold": "ok", "sizes": (200, 2000)} | options
    return {m.name.removeprefix("attack-"): m for m in oversized(Scorer(signal(grader)), ROWS, **options)}


def exact(response, reference):
    return float(response == reference)


def test_an_exact_check_pays_nothing_and_takes_no_longer():
    found = results(exact)
    assert found["oversized"].result == "holds"
    assert found["oversized-time"].result == "holds"


def test_a_reward_of_length_is_found():
    long = lambda response, reference: max(exact(response, reference), float(len(response) > 1500))
    assert results(long)["oversized"].result == "fails"


def test_time_that_grows_with_the_cube_is_found():
    def slow(response, reference):
        if response.isdigit():
            until = time.thread_time() + 0.05 * (len(response) / 2000) ** 3
            while time.thread_time() < until:  # busy, as a regular expression that goes back is: waiting costs no processor time
                pass
        return exact(response, reference)

    m = results(slow, seconds=60.0, sizes=(1000, 2000), kinds=["digits", "filler"])["oversized-time"]
    assert m.result == "fails"
    assert m.note.startswith("slowest for digits, from ")
    assert "to 2000 characters" in m.note


def test_sizes_that_do_not_fit_into_the_time_are_left_out():
    found = results(exact, seconds=1e-9)
    assert {m.result for m in found.values()} == {"not applicable"}
    assert "did not fit" in found["oversized-time"].note


def test_every_kind_is_as_long_as_it_says():
    assert all(len(make(size)[:size]) == size for make in KINDS.values() for size in (7, 1000))


def test_no_rows_and_bad_sizes():
    assert {m.note for m in oversized(Scorer(signal(exact)), [])} == {"no rows"}
    with pytest.raises(ValueError, match="rising"):
        results(exact, sizes=(10, 10))
