"""Rewards of transitions: worlds whose regret and distance are known by hand, and what is said where states cannot be counted."""

from itertools import pairwise

import pytest
import torch

from payoff.audit import transition_samples, transitions
from payoff.audit.case import Case
from payoff.audit.report import audit
from payoff.audit.scorer import Scorer
from payoff.audit.transitions import transition_distances
from payoff.grading import signal


def walk(times=6):
    """A line of four states, one step left or right; the truth pays arriving at the right end."""
    moves = [(s, a, max(0, min(3, s + a))) for s in (0, 1, 2) for a in (-1, 1)]
    return [{"state": s, "action": a, "next_state": t, "true": float(t == 3), "start": s == 0} for s, a, t in moves] * times


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    """Intervals are of other tests (test_distance_samples, test_intervals_by_cluster); here they would be most of the time."""
    monkeypatch.setattr(transitions, "RESAMPLES", 3)
    monkeypatch.setattr(transition_samples, "WIDE", 50)
    monkeypatch.setattr(transition_samples, "OVER", 8)
    monkeypatch.setattr(transition_samples, "FEW", 50)


def found(grader, rows=None, **options):
    options = {"gold": "true", "discount": 0.9} | options
    return {m.name: m for m in transition_distances(Scorer(signal(grader)), rows or walk(), **options)}


def test_a_shaped_and_scaled_reward_loses_nothing_and_is_at_no_distance():
    # 3 r + 0.9 p(s') - p(s) with p(s) = s; the right end, where episodes end, must keep the potential 0
    potential = lambda s: 0.0 if s == 3 else float(s)
    m = found(lambda state, next_state: 3.0 * (next_state == 3) + 0.9 * potential(next_state) - potential(state))
    assert m["optimal-regret"].estimate.value == pytest.approx(0, abs=1e-6)
    assert m["worst-regret"].estimate.value == pytest.approx(0, abs=1e-6)
    assert m["distance-starc"].estimate.value == pytest.approx(0, abs=1e-6)
    assert m["optimal-regret"].result == "holds"


def test_a_reward_for_leaving_to_the_left_loses_everything_and_shows_where():
    m = found(lambda state, next_state: float(next_state < state))
    assert m["optimal-regret"].estimate.value == pytest.approx(1)
    assert m["optimal-regret"].result == "fails"
    assert m["optimal-regret"].examples[0]["response"].count("--") == 2
    assert m["distance-epic"].note.startswith("EPIC needs the true reward")


def test_epic_is_over_all_combinations_with_a_scorer_of_the_truth():
    truth = Scorer(signal(lambda next_state: float(next_state == 3)))
    m = found(lambda next_state: -float(next_state == 3), gold=None, truth=truth)
    assert m["distance-epic"].estimate.value == pytest.approx(1)  # the opposite: as far as can be


def unnumbered(count=130):
    """A walk over numbers that do not recur; the truth pays where it arrives."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(count, generator=draw).tolist()
    return [{"state": a, "action": k % 2, "next_state": b} for k, (a, b) in enumerate(pairwise(x))]


ARRIVAL = Scorer(signal(lambda next_state: next_state))


def test_states_without_number_get_distances_that_a_shaping_leaves_at_zero():
    shaped = lambda next_state, state: 2 * (next_state + 0.9 * next_state**2 - state**2)
    same = found(shaped, unnumbered(), gold=None, truth=ARRIVAL)
    for name in ("distance-epic", "distance-dard", "distance-starc"):
        assert same[name].estimate.value == pytest.approx(0, abs=2e-3), name
    assert same["optimal-regret"].estimate is None
    assert "too many states" in same["optimal-regret"].note


def test_the_opposite_of_the_truth_is_as_far_as_can_be_by_every_estimated_distance():
    other = found(lambda next_state: -next_state, unnumbered(), gold=None, truth=ARRIVAL)
    assert [round(other[f"distance-{name}"].estimate.value, 6) for name in ("epic", "dard", "starc")] == [1.0, 1.0, 2.0]


def test_states_that_are_no_numbers_have_no_neighbours():
    rows = [{**row, "state": {"at": str(row["state"])}, "next_state": {"at": str(row["next_state"])}} for row in unnumbered()]
    truth = Scorer(signal(lambda next_state: float(next_state["at"])))
    m = found(lambda next_state: float(next_state["at"]), rows, gold=None, truth=truth)
    assert m["distance-epic"].estimate.value == pytest.approx(0, abs=1e-3)
    assert "none has neighbours" in m["distance-starc"].note
    asked = found(lambda next_state: float(next_state["at"]), [{**row, "true": 1.0} for row in rows])
    assert "no scorer of the truth" in asked["distance-dard"].note


def test_transitions_without_verdict_or_gold_are_left_out_and_counted():
    rows = [{**row, "true": None} if k == 0 else row for k, row in enumerate(walk())]
    m = found(lambda next_state: None if next_state == 1 else float(next_state == 3), rows)
    assert "13 of 36 transitions without verdict or gold were left out" in m["optimal-regret"].note
    assert found(lambda state: 1.0, gold=None)["optimal-regret"].estimate is None
    with pytest.raises(ValueError, match="discount"):
        found(lambda state: 1.0, discount=1.0)


def test_an_audit_of_transitions_is_that_check_alone():
    score = Scorer(signal(lambda state, next_state: float(next_state < state)))
    found = audit(Case(score, walk(), gold="true", discount=0.9), reward="left")
    assert {m.check for m in found.measurements} == {"distance"}
    assert found.verdict == "fails"
    assert (found.rows, found.prompts) == (36, 0)
    with pytest.raises(ValueError, match="the rows are transitions, which attacks"):
        audit(Case(score, walk(), gold="true"), only=["attacks"])
    with pytest.raises(ValueError, match="the rows are responses, which distance"):
        audit(Case(score, [{"prompt": "p", "response": "r"}]), only=["distance"])
