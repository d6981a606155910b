"""RLPR's filter: what it collects, from when, and what it then keeps."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.sampling.spread_filter import SpreadFilter
from payoff.trajectories import place_outcome

ALL = torch.ones(4, dtype=torch.bool)
A = 0.5**0.5  # the standard deviation of two outcomes is their distance times this


def rewards(*outcomes: float, known=ALL):
    return {"probability": place_outcome(torch.tensor(outcomes), known, four_answers())}


def test_it_keeps_all_until_it_filters_and_then_those_that_spread_as_much_as_is_usual():
    keep, traj = SpreadFilter(collect=2, filter_from=4, decay=0.5), four_answers()
    assert keep.learn(traj, rewards(0.0, 1.0, 0.0, 1.0)) == {"rlpr/usual_std": None}
    assert keep.learn(traj, rewards(0.0, 0.8, 0.0, 0.4))["rlpr/usual_std"] == pytest.approx(0.6 * A)  # the first as it is
    assert keep(rewards(0.5, 0.5, 0.0, 1.0), traj).tolist() == [0, 1, 2, 3]  # the third update
    assert keep.learn(traj, rewards(0.0, 0.0, 0.0, 0.4))["rlpr/usual_std"] == pytest.approx((0.3 + 0.1) * A)
    assert keep(rewards(0.5, 0.69, 0.0, 0.21), traj).tolist() == [2, 3]  # half of 0.4 is what they must differ


def test_a_group_counts_once_and_one_without_two_outcomes_not_at_all():
    keep, traj = SpreadFilter(collect=1, filter_from=2, fraction=1.0), four_answers().replace(group=torch.tensor([0, 0, 0, 1]))
    assert keep.learn(traj, rewards(0.0, 0.5, 1.0, 9.0))["rlpr/usual_std"] == pytest.approx(0.5)
    assert keep(rewards(0.0, 0.5, 1.0, 9.0), traj).tolist() == [0, 1, 2]
    known = torch.tensor([True, False, False, True])
    assert keep.learn(traj, rewards(0.0, 5.0, 1.0, 9.0, known=known))["rlpr/usual_std"] == pytest.approx(0.5)
    assert keep(rewards(0.0, 5.0, 1.0, 9.0, known=known), traj).tolist() == []


def test_without_a_fraction_everything_stays_and_its_state_can_be_stored():
    keep, traj = SpreadFilter(collect=1, filter_from=2, fraction=0.0), four_answers()
    keep.learn(traj, rewards(0.0, 1.0, 0.0, 1.0))
    assert keep(rewards(0.5, 0.5, 0.5, 0.5), traj).tolist() == [0, 1, 2, 3]
    other = SpreadFilter(collect=1, filter_from=2)
    other.load_state_dict(keep.state_dict())
    assert other(rewards(0.0, 0.1, 0.0, 1.0), traj).tolist() == [2, 3]


def test_numbers_and_channels_are_checked():
    with pytest.raises(ValueError, match="rlpr: fraction must be at least 0"):
        SpreadFilter(collect=5, filter_from=5)
    with pytest.raises(KeyError, match="no reward channel 'correct'"):
        SpreadFilter(by="correct")(rewards(0.0, 0.0, 0.0, 0.0), four_answers())
