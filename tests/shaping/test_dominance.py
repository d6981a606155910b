"""The Pareto front of each set."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.shaping.dominance import non_dominated
from payoff.trajectories import outcome, place_outcome

ONE = four_answers().replace(group=torch.zeros(4, dtype=torch.int64))


def channel(*values, known=(True,) * 4):
    return place_outcome(torch.tensor(values), torch.tensor(known), ONE)


def front(rewards, traj=ONE, **options):
    return outcome(non_dominated(rewards, traj, channels=list(rewards), **options)["front"], traj)


def test_duplicates_stay_on_the_front_together():
    rewards = {"a": channel(1.0, 1.0, 0.0, 0.5), "b": channel(1.0, 1.0, 2.0, 0.5)}
    assert front(rewards)[0].tolist() == [1.0, 1.0, 1.0, 0.0]


def test_one_reward_leaves_the_best_and_all_equal_leaves_all():
    assert front({"a": channel(0.1, 0.9, 0.9, 0.2)})[0].tolist() == [0.0, 1.0, 1.0, 0.0]
    assert front({"a": channel(3.0, 3.0, 3.0, 3.0)})[0].tolist() == [1.0] * 4


def test_sets_are_apart_and_the_unknown_beat_nobody():
    rewards = {"a": channel(1.0, 2.0, 9.0, 4.0, known=(True, True, False, True))}
    value, known = front(rewards, four_answers())
    assert value.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert known.tolist() == [True, True, False, True]
    assert front(rewards, four_answers(), over="batch")[0].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_increasing_maps_of_each_reward_change_nothing():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, generator=rng).tolist(), torch.randn(4, generator=rng).tolist()
    plain = front({"a": channel(*a), "b": channel(*b)})[0]
    mapped = front({"a": channel(*[x**3 for x in a]), "b": channel(*[5 * x - 2 for x in b])})[0]
    assert torch.equal(plain, mapped)


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(KeyError, match="no reward channel 'b'"):
        non_dominated({"a": channel(0.0, 0.0, 0.0, 0.0)}, ONE, channels=["a", "b"])
    with pytest.raises(ValueError, match="there is a channel 'a' already"):
        non_dominated({"a": channel(0.0, 0.0, 0.0, 0.0)}, ONE, channels=["a"], name="a")
    with pytest.raises(ValueError, match="must name at least one reward"):
        non_dominated({"a": channel(0.0, 0.0, 0.0, 0.0)}, ONE, channels=[])
