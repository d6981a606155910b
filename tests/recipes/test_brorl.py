"""The exact averages that recipe `brorl` reports."""

import itertools

import pytest
import torch

from payoff.audit.mass_balance import mass_balance
from payoff.recipes.brorl import expected_balance

P = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
RIGHT = torch.tensor([True, False, False, True])


@pytest.mark.parametrize("n", [1, 3])
def test_the_expected_balance_is_the_mean_over_all_batches(n):
    sampled, unsampled = 0.0, 0.0
    for batch in itertools.product(range(4), repeat=n):
        weight = float(P[list(batch)].prod())
        found = mass_balance(P, RIGHT, torch.zeros(4, dtype=torch.bool).index_fill(0, torch.tensor(batch), True))
        sampled, unsampled = sampled + weight * (found.right + found.wrong), unsampled + weight * found.unsampled
    assert expected_balance(P, RIGHT, n) == pytest.approx((sampled, unsampled), abs=1e-14)


def test_what_unsampled_answers_change_vanishes_as_fast_as_the_rarest_is_missed():
    # the last to be seen is the answer of probability 1/10, missed in n rollouts with 0.9^n
    changes = [abs(expected_balance(P, RIGHT, n)[1]) for n in (200, 201)]
    assert changes[1] / changes[0] == pytest.approx(0.9, rel=1e-6)
    assert changes[0] < 1e-9
