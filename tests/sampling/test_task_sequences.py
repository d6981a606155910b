import math

import pytest
import torch

from payoff.sampling.task_sequences import retention


def test_measures_of_three_tasks_by_hand():
    scores = torch.tensor([[0.8, 0.1, 0.0], [0.5, 0.9, 0.3], [0.6, 0.7, 1.0]], dtype=torch.float64)
    # lost: 0.6 - 0.8 and 0.7 - 0.9; before training: 0.1 and 0.3
    assert retention(scores) == (pytest.approx(2.3 / 3), pytest.approx(0.9), pytest.approx(-0.2), pytest.approx(0.2))


def test_a_single_task_is_not_forgotten_and_what_was_not_measured_is_not_needed():
    assert retention(torch.tensor([[0.4]], dtype=torch.float64)) == (0.4, 0.4, 0.0, None)
    found = retention(torch.tensor([[0.8, math.nan], [0.8, 0.5]], dtype=torch.float64))
    assert (found.forgetting, found.transfer) == (0.0, None)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"got \[1, 2\]"):
        retention(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="must be known"):
        retention(torch.tensor([[math.nan, 0.0], [0.1, 0.2]]))
