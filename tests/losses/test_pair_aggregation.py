"""Weights of pairs: what they add up to, and that there may be none."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.pair_aggregation import pair_mean, pair_mean_by_start
from payoff.trajectories import Pairs


def pairs(index, weight):
    return Pairs(torch.tensor(index, dtype=torch.int64).reshape(-1, 2), torch.ones(len(weight)), torch.tensor(weight))


def test_pairs_weigh_by_their_weights_and_starts_alike():
    three = pairs([[0, 1], [1, 0], [2, 3]], [1.0, 3.0, 4.0])
    torch.testing.assert_close(pair_mean(three, four_answers()), torch.tensor([0.125, 0.375, 0.5]))
    torch.testing.assert_close(pair_mean_by_start(three, four_answers()), torch.tensor([0.125, 0.375, 0.5]))
    three = pairs([[0, 1], [1, 0], [2, 3]], [1.0, 1.0, 1.0])
    torch.testing.assert_close(pair_mean(three, four_answers()), torch.full((3,), 1 / 3))
    torch.testing.assert_close(pair_mean_by_start(three, four_answers()), torch.tensor([0.25, 0.25, 0.5]))


def test_a_start_without_weight_is_not_counted():
    two = pairs([[0, 1], [2, 3]], [0.0, 2.0])
    assert pair_mean(two, four_answers()).tolist() == [0, 1]
    assert pair_mean_by_start(two, four_answers()).tolist() == [0, 1]


@pytest.mark.parametrize("aggregation", [pair_mean, pair_mean_by_start])
def test_no_pairs_have_no_weight_and_negative_ones_are_refused(aggregation):
    assert aggregation(pairs([], []), four_answers()).shape == (0,)
    assert aggregation(pairs([[0, 1]], [0.0]), four_answers()).tolist() == [0]
    with pytest.raises(ValueError, match="weights must be >= 0"):
        aggregation(pairs([[0, 1]], [-1.0]), four_answers())
