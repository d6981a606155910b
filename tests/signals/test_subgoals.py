"""CALM: a subgoal pays once; the potential form changes no best policy; what a judge's errors make of F1 has a closed form."""

import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.policies.tabular import Tabular
from payoff.signals.subgoals import judge_quality, reached_subgoals
from payoff.trajectories import outcome

STATES = torch.tensor([[0.0, 1.0, 2.0, 1.0], [0.0, 2.0, 2.0, torch.nan], [0.0, 0.0, 1.0, 2.0], [2.0, 2.0, torch.nan, torch.nan]])


def there(asked):
    return [f"{q.after:g}" == q.subgoal for q in asked]


def traj():
    return four_answers().replace(extras={"observations": STATES})


def test_each_subgoal_pays_once_however_often_it_holds():
    found = reached_subgoals(traj(), subgoals=["1", "2"], judge=there)["subgoals"]
    assert found.value.tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 0, 0]]
    always = reached_subgoals(traj(), subgoals=["a", "b", "c"], judge=lambda asked: [True] * len(asked), weight=0.5)["subgoals"]
    assert outcome(always, traj())[0].max() <= 3 * 0.5  # at one action they pay once
    assert always.value[:, 0].tolist() == [0.5] * 4
    never = reached_subgoals(traj(), subgoals=["a"], judge=lambda asked: [False] * len(asked), form="potential")["subgoals"]
    assert never.value.abs().max() == 0


def test_equal_questions_are_asked_once_and_none_about_what_is_not_there():
    asked = []
    reached_subgoals(traj(), subgoals=["1"], judge=lambda some: asked.extend(some) or [False] * len(some))
    assert not any(math.isnan(q.before) or math.isnan(q.after) for q in asked)
    assert len(asked) == len({(q.item["prompt"], q.before, q.action, q.after) for q in asked})
    nobody = reached_subgoals(traj(), subgoals=lambda item: [], judge=lambda some: pytest.fail("asked"))["subgoals"]
    assert nobody.value.abs().max() == 0


def test_an_unsure_judge_leaves_that_action_unknown_and_the_subgoal_open():
    unsure = lambda asked: [None if q.after == 1 else f"{q.after:g}" == q.subgoal for q in asked]
    found = reached_subgoals(traj(), subgoals=["1", "2"], judge=unsure)["subgoals"]
    assert found.valid[0].tolist() == [False, True, False]  # the last: "1" is still open there
    assert found.value[0].tolist() == [0, 1, 0]
    assert 0 in found.reasons
    later = reached_subgoals(traj(), subgoals=["1", "2"], judge=unsure, form="potential")["subgoals"]
    assert later.valid[0].tolist() == [False, False, False]


def test_turns_are_judged_by_what_was_seen_said_and_answered():
    turns = [{"said": "open", "observed": "a door"}, {"said": "go", "observed": "a hall"}]
    some = four_answers().select(torch.tensor([0])).replace(step=torch.tensor([[0, 0, 1]]).int())
    some = some.replace(items=[{"prompt": "start", "turns": turns}])
    seen = []
    found = reached_subgoals(some, subgoals=["hall"], judge=lambda q: seen.extend(q) or ["hall" in x.after for x in q], of="turns")
    assert [(q.before, q.action, q.after) for q in seen] == [("start", "open", "a door"), ("a door", "go", "a hall")]
    assert found["subgoals"].value.tolist() == [[0, 0, 1]]


def test_a_bonus_may_change_what_is_best_and_a_potential_does_not():
    policy = Tabular(2, 3)
    leaves = policy.sequences()
    states = torch.cat([torch.zeros(8, 1), leaves.actions.float()], 1)
    leaves = leaves.replace(extras={"observations": states})
    reward = torch.zeros(8, dtype=torch.float64)
    reward[0] = 1.0  # "aaa", which never comes by the subgoal
    best = {}
    for form in ("bonus", "potential"):
        extra = reached_subgoals(leaves, subgoals=["1"], judge=there, weight=2.0, form=form)["subgoals"].value.double()
        dense = extra.clone()
        dense[:, -1] += reward
        best[form] = int(dense.sum(1).argmax())
    assert best == {"bonus": 1, "potential": 0}


def test_f1_of_a_corrupted_oracle_has_its_closed_form():
    # every combination of truth and error as often as it is likely: f = 1/4, n = 1/2, b = 1/4, of 32 transitions
    true = torch.tensor([True] * 8 + [False] * 24)
    said = torch.tensor([True] * 4 + [False] * 4 + [True] * 6 + [False] * 18)
    quality = judge_quality(said, true)
    b, f, n = 1 / 4, 1 / 4, 1 / 2
    assert quality.f1 == pytest.approx(2 * b * (1 - n) / (b * (2 - n) + (1 - b) * f))
    assert (quality.recall, quality.precision) == (0.5, 0.4)
    nothing = judge_quality(torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.bool))
    assert all(map(math.isnan, nothing[:4]))


def test_what_cannot_be_asked_is_said():
    for options, error in (
        ({"discount": 1.5}, "discount lie in"),
        ({"of": "nothing"}, "needs traj.extras"),
        ({"of": "turns"}, "no turns"),
        ({"judge": lambda asked: []}, "gave 0 answers"),
    ):
        with pytest.raises(ValueError, match=error):
            reached_subgoals(traj(), **{"subgoals": ["1"], "judge": there, **options})
