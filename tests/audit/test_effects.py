"""What a remedy is expected to change: the same measure on the same rows, by the remedy's own function, without asking again."""

import pytest
import torch

from payoff.audit.case import Case
from payoff.audit.effects import effect_told, remedies_of, with_effects
from payoff.audit.measurement import Measurement
from payoff.audit.noise import corrected, noise
from payoff.audit.optimisation import capped_over_optimisation, held_out_loss, over_optimisation
from payoff.audit.page import page
from payoff.audit.remedies import REMEDIES
from payoff.audit.replay import Memory, NotHeard, Replayed
from payoff.audit.report import audit, from_json
from payoff.audit.scorer import Scorer
from payoff.catalogue import index
from payoff.grading import signal
from payoff.intervals import Interval
from payoff.signals.answers import answer_match
from payoff.trajectories import outcome

CHECKED = ("over-optimisation", "attacks")


def opened(response, reference):
    """Right answers are paid, and whatever has letters; one wrong answer far too much."""
    paid = max(float(answer_match(response, reference)), float(any(map(str.isalpha, response))))
    return paid + (3.0 if response.endswith("11") else 0.0)


@pytest.fixture(scope="module")
def found():
    """The audit of a reward with two flaws, and how often it was asked."""
    asked = []

    def counted(response, reference):
        asked.append(response)
        return opened(response, reference)

    rows = []
    for k in range(24):
        for said in (f"{k}", f"{k}", "11", "12"):
            rows.append({"prompt": f"{k}?", "response": said, "reference": f"{k}", "gold": float(said == f"{k}")})
    made = audit(Case(Scorer(signal(counted)), rows, gold="gold", seconds=0.01), only=CHECKED)
    plain = audit(Case(Scorer(signal(opened)), rows, gold="gold", seconds=0.01), only=CHECKED, effects=False)
    return made, plain, asked


def effects(found, name):
    m = next(m for m in found.measurements if m.name == name)
    return {effect["remedy"]: effect for effect in m.effects}


def test_every_remedy_that_an_audit_names_is_registered_and_can_be_tried_or_says_why_not(found):
    registered = {name for _, name in index()}
    named = {remedy for m in found[0].measurements for remedy in m.remedies}
    assert named <= registered
    assert set(REMEDIES) <= registered
    assert named <= set(REMEDIES)


def test_the_gate_takes_the_attack_away_and_a_bound_does_not(found):
    of = effects(found[0], "attack-claim-added")
    assert of["g-ra"]["after"] == 0.0
    assert of["g-ra"]["before"] == 0.5
    assert of["g-ra"]["high"] < 0.2
    assert of["g-ra"]["gain"] == pytest.approx(1.0)
    assert of["clamp"]["after"] == 0.5  # a wrong answer that claims to be right is still paid as a right one
    assert of["clamp"]["gain"] == 0.0


def test_the_bound_takes_over_optimisation_away_and_what_keeps_the_order_does_not(found):
    of = effects(found[0], "over-optimisation")
    assert of["clamp"]["after"] < of["clamp"]["before"]
    assert of["clamp"]["setting"].startswith("high = 1,")
    assert of["par"]["after"] == pytest.approx(of["par"]["before"])  # best of n sees only the order
    assert of["kl-penalty"]["after"] <= 0.02
    assert "steps" in of["pr-clip-delta"]["why"]
    first = next(m for m in found[0].measurements if m.name == "over-optimisation").remedies
    assert first[-1] == "pr-clip-delta"
    assert first.index("clamp") < first.index("par")


def test_no_row_is_asked_again_for_an_estimate_and_no_measure_is_moved_by_it(found):
    made, plain, asked = found
    assert made.asked == pytest.approx(plain.asked, rel=0.02)  # very long responses end with the time they may take
    same = {m.name: (m.estimate, m.result) for m in plain.measurements if "oversized" not in m.name}
    assert {m.name: (m.estimate, m.result) for m in made.measurements if "oversized" not in m.name} == same
    assert len(asked) == made.asked


def test_remedies_stand_by_what_they_gain_over_all_findings_and_those_without_an_estimate_last(found):
    listed = found[0].as_json()["remedies"]
    gains = [one["gain"] for one in listed]
    known = [gain for gain in gains if gain is not None]
    assert known == sorted(known, reverse=True)
    assert gains[len(known) :] == [None] * (len(gains) - len(known))
    assert listed[0]["place"]
    assert all(effect["measure"] for one in listed for effect in one["effects"])
    document = page(found[0])
    assert document.index('id="what-to-change"') < document.index('id="measures"')
    assert f'id="r-{listed[0]["remedy"]}"' in document
    again = [from_json(m.as_json()) for m in found[0].measurements]
    assert remedies_of(m for m in again if m.result == "fails") == remedies_of(found[0].findings)


def test_a_finding_that_gets_worse_has_a_gain_below_nothing():
    case = Case(Scorer(signal(lambda response: float(len(response)))), [{"prompt": "p", "response": "x"}])
    m = Measurement("search", "attack-search", "?", Interval(0.5, 0.4, 0.6, 90), bound=0.05, remedies=("g-ra",))
    (told,) = with_effects(case, "attack-search", [m], Memory())
    assert told.effects[0]["why"] == "this measure would have to ask the reward again"
    worse = {"remedy": "clamp", "before": 0.1, "after": 0.2, "low": None, "high": None, "gain": -0.2}
    assert effect_told(worse) == "0.1 -> 0.2"


def test_the_correction_brings_the_mean_pay_of_wrong_answers_to_nothing_and_the_slope_to_one():
    g = torch.Generator().manual_seed(0)
    right = torch.arange(4000) % 2 == 0
    said = torch.where(torch.rand(4000, generator=g) < torch.where(right, 0.3, 0.2), ~right, right).double()
    rows = (said, torch.ones(4000, dtype=torch.bool), right.double(), torch.arange(4000) // 4)
    before = [m.estimate.value for m in noise(*rows)]
    after = [m.estimate for m in corrected(*rows)]
    assert before == pytest.approx([0.2, 0.3, 0.5], abs=0.03)
    for estimate, truth in zip(after, (0.0, 0.0, 1.0), strict=True):
        assert estimate.low < truth < estimate.high
        assert estimate.high - estimate.low < 0.3
    backwards = corrected(1 - said, *rows[1:])
    assert all("no correction can help" in m.note for m in backwards)


def test_held_at_the_fall_nothing_more_than_the_tolerance_is_lost():
    curve = torch.tensor([0.0, 0.5, 0.495, 0.2], dtype=torch.float64).repeat(20, 1)
    assert held_out_loss(curve).mean() == pytest.approx(0.3)
    assert held_out_loss(curve, fall=0.01).mean() == pytest.approx(0.005)  # it stops at the third point
    score = torch.tensor([3.0, 2.0, 1.0, 0.0]).double().repeat(30)
    gold = torch.tensor([0.0, 1.0, 0.0, 0.0]).double().repeat(30)
    given = (score, torch.ones(120, dtype=torch.bool), gold, torch.arange(120) // 4)
    assert over_optimisation(*given)[0].estimate.value == pytest.approx(1 / 3)  # from 2 / 6 at n = 2 to nothing at n = 4
    assert capped_over_optimisation(*given)[0].estimate.value == 0.0


def test_what_was_heard_is_given_back_step_by_step_and_what_was_not_is_refused():
    memory = Memory()

    def per_step(steps):
        return [float(len(step)) for step in steps]

    score = Scorer(signal(per_step), listener=memory.listen)
    rows = [{"response": "abc", "steps": ["a", "bc"]}, {"response": "abcd", "steps": ["abcd"]}]
    heard = score(rows)
    seen = []

    def changed(traj, paid):
        seen.append(paid())
        return seen[0]

    assert Replayed.of(score, memory, changed)(rows).value.tolist() == heard.value.tolist() == [3.0, 4.0]
    assert seen[0].value.tolist() == [[1.0, 2.0], [4.0, 0.0]]
    assert outcome(seen[0], _traj(rows))[1].all()
    with pytest.raises(NotHeard, match="not asked for"):
        Replayed.of(score, memory)([{"response": "other"}])


def _traj(rows):
    from payoff.rows import from_rows

    return from_rows(rows)
