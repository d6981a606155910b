"""Verdicts turned round: a group at a time or one by one, at their rates, and never in evaluation."""

import pytest
import torch

from payoff.advantages.group import grpo
from payoff.examples import four_answers
from payoff.shaping.flips import FlippedVerdicts
from payoff.trajectories import constant, outcome, place_outcome

VERDICTS = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)


def flipped(traj, verdicts, known=None, **options):
    known = torch.ones(len(traj), dtype=torch.bool) if known is None else known
    return FlippedVerdicts(**options)(place_outcome(verdicts, known, traj), traj)


def many(n):
    """n groups of two rollouts."""
    traj = four_answers()
    rows = torch.arange(2 * n) % 4
    return traj.select(rows).replace(group=torch.arange(2 * n) // 2, id=torch.arange(2 * n))


def test_a_group_turned_round_has_minus_its_advantages_and_one_that_is_all_right_none():
    traj = four_answers()
    clean = grpo(constant(VERDICTS, torch.ones(4, dtype=torch.bool)), traj)
    turned = grpo(constant(*outcome(flipped(traj, VERDICTS, false_positive=1.0, false_negative=1.0), traj)), traj)
    assert torch.equal(turned.value, -clean.value)
    assert (clean.value[0] != 0).any()
    assert (turned.value[2:] == 0).all()


@pytest.mark.parametrize("unit", ["group", "rollout"])
def test_rates_hold_and_groups_are_turned_round_whole(unit):
    traj = many(2000)
    verdicts = (torch.arange(4000) % 2).double()
    found = outcome(flipped(traj, verdicts, false_positive=0.3, false_negative=0.3, unit=unit, seed=3), traj)[0]
    turned = (found != verdicts).reshape(2000, 2)
    assert float(turned.double().mean()) == pytest.approx(0.3, abs=0.04)  # 3 standard errors of 2000 groups
    both = float((turned[:, 0] & turned[:, 1]).double().mean())
    assert both == pytest.approx(0.3 if unit == "group" else 0.09, abs=0.04)


def test_each_kind_of_error_has_its_own_rate():
    traj = many(50)
    verdicts = (torch.arange(100) % 2).double()
    assert (outcome(flipped(traj, verdicts, false_positive=1.0, false_negative=0.0), traj)[0] == 1).all()
    assert (outcome(flipped(traj, verdicts, false_positive=0.0, false_negative=1.0), traj)[0] == 0).all()


def test_neither_the_order_of_rows_nor_a_resumption_changes_what_is_drawn_and_every_update_draws_anew():
    traj = many(40)
    verdicts = (torch.arange(80) % 3 == 0).double()
    for unit in ("group", "rollout"):
        order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
        made = FlippedVerdicts(unit=unit)
        say = lambda part, rows: part(
            place_outcome(verdicts[rows], torch.ones(80, dtype=torch.bool), traj.select(rows)), traj.select(rows)
        )
        first = outcome(say(made, torch.arange(80)), traj)[0]
        assert torch.equal(outcome(say(FlippedVerdicts(unit=unit), order), traj.select(order))[0], first[order])
        again = FlippedVerdicts(unit=unit)
        again.load_state_dict(made.state_dict())
        second = [outcome(say(part, torch.arange(80)), traj)[0] for part in (made, again)]
        assert torch.equal(*second)
        assert not torch.equal(second[0], first)
        assert torch.equal(outcome(say(made.eval(), torch.arange(80)), traj)[0], verdicts)


def test_the_unknown_stay_unknown_and_mistakes_are_named():
    traj = four_answers()
    known = torch.tensor([True, False, True, True])
    value, valid = outcome(flipped(traj, VERDICTS, known, false_positive=1.0, false_negative=1.0), traj)
    assert valid.tolist() == known.tolist()
    assert value[known].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"must be 0 or 1, trajectory 0 has 0\.5"):
        flipped(traj, VERDICTS / 2)
    with pytest.raises(ValueError, match=r"rates in 0\.\.1"):
        FlippedVerdicts(false_positive=1.5)
