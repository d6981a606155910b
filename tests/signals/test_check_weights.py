"""Hard checks count more, look-alikes once: by hand and by their limits."""

import math

import pytest
import torch

from payoff.rows import from_rows
from payoff.signals.check_weights import check_weights, weighted_checks
from payoff.trajectories import outcome, per_step

F64 = torch.float64


def rewards(*tables, groups=None, **options):
    groups = groups or [0] * len(tables)
    rows = [
        {"group": g, "response": "", "steps": ["x"] * len(table), "checks": table} for g, table in zip(groups, tables, strict=True)
    ]
    traj = from_rows(rows)
    return weighted_checks(traj, **options), traj


def test_two_turns_of_two_trajectories_by_hand():
    # check 0 passes 3 of 4 pairs, check 1 one of 4; apart by 1/2, five bandwidths: e^(-12.5) alike
    found, traj = rewards([[1, 0], [1, 1]], [[0, 0], [1, 0]], discount=0.5)
    near = 1 + math.exp(-12.5) + 1e-6
    easy, hard = math.exp(-1.5) / near, math.exp(-0.5) / near
    value = per_step(found["verpo-turns"], traj)[0]
    assert value.tolist() == [pytest.approx([easy, easy + hard]), pytest.approx([0, easy])]
    assert outcome(found["verpo-outcome"], traj)[0].tolist() == [0.25, 0]


def test_copies_of_a_check_weigh_together_as_one():
    once = check_weights(torch.tensor([0.2, 0.9], dtype=F64), 0.01, 2.0, 1e-6)
    often = check_weights(torch.tensor([0.2] + [0.9] * 50, dtype=F64), 0.01, 2.0, 1e-6)
    assert often[0] == pytest.approx(float(once[0]))
    assert float(often[1:].sum()) == pytest.approx(float(once[1]), rel=1e-5)


def test_checks_that_are_equally_hard_are_the_share_of_those_passed():
    # Rates all 1/2, each check passed by one of the two
    found, traj = rewards([[1, 1, 0, 0]], [[0, 0, 1, 1]])
    value = outcome(found["verpo-turns"], traj)[0]
    assert value.tolist() == pytest.approx([math.exp(-1) * 2 / 4] * 2, rel=1e-5)


def test_without_discount_the_outcome_is_whether_the_last_turn_passes_all():
    found, traj = rewards([[1, 0], [1, 1]], [[0, 1], [1, 0]], [[1, 1], [0, 1]], discount=1.0)
    assert outcome(found["verpo-outcome"], traj)[0].tolist() == [1, 0, 0]


def test_groups_weigh_their_own_checks_and_may_have_different_ones():
    apart, one = rewards([[1, 0]], [[1, 1]], [[1, 1, 1]], groups=[0, 0, 1])
    alone, two = rewards([[1, 0]], [[1, 1]])
    assert torch.allclose(outcome(apart["verpo-turns"], one)[0][:2], outcome(alone["verpo-turns"], two)[0])


def test_a_group_that_fails_throughout_still_tells_partial_successes_apart():
    found, traj = rewards([[1, 0, 0]], [[1, 1, 0]], [[0, 0, 0]])
    a, b, c = outcome(found["verpo-turns"], traj)[0].tolist()
    assert b > a > c == 0
    assert outcome(found["verpo-outcome"], traj)[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("bad", [None, [], "11", [[1, 2]], [[1], [1, 0]], [[]], [[math.nan, 1]], [[1, 0], [1, 0]], 7])
def test_rows_without_checks_of_their_turns_have_no_verdict_and_no_part_in_the_weights(bad):
    good = {"group": 0, "response": "", "checks": [1, 0]}
    traj = from_rows([good, good | {"checks": [1, 1]}, good | {"checks": bad}])
    found = weighted_checks(traj)
    assert outcome(found["verpo-turns"], traj)[1].tolist() == [True, True, False]
    assert outcome(found["verpo-outcome"], traj)[1].tolist() == [True, True, False]
    alone = weighted_checks(from_rows([good, good | {"checks": [1, 1]}]))
    assert torch.allclose(found["verpo-turns"].value[:2], alone["verpo-turns"].value)
    assert list(found["verpo-turns"].reasons) == [int(traj.id[2])]


def test_thousands_of_checks_are_cheap():
    found, traj = rewards([[1] * 20_000], [[0] * 20_000])
    assert outcome(found["verpo-turns"], traj)[0].tolist() == pytest.approx([math.exp(-1), 0])


def test_mistakes_are_named():
    for options in ({"bandwidth": 0.0}, {"floor": 0.0}, {"discount": 2.0}):
        with pytest.raises(ValueError, match="must be positive"):
            rewards([[1]], **options)
