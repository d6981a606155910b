"""The environment's own reward, for the one who asks."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.signals.environment import environment_reward


def test_it_pays_what_was_recorded_and_nothing_beyond_the_end():
    paid = torch.arange(12.0).reshape(4, 3)
    traj = four_answers().replace(extras={"environment_reward": torch.where(four_answers().exists, paid, torch.nan)})
    value = environment_reward(traj, scale=2.0)["environment"].value
    assert value.tolist() == [[0, 2, 4], [6, 8, 0], [12, 14, 16], [18, 0, 0]]


def test_it_says_where_there_is_nothing_to_pay():
    with pytest.raises(ValueError, match="rollouts in an environment carry"):
        environment_reward(four_answers())
