import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.policy_gradient import policy_gradient
from payoff.losses.unbounded import dro, strict_on_policy
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel

ONES = torch.ones(4, 1, dtype=torch.bool)


def slope(loss, nats: float, advantage: float, **options) -> torch.Tensor:
    traj = four_answers()
    evaluation = Evaluation((traj.logp["old"] + nats).requires_grad_(), {})
    terms = loss(evaluation, traj, Channel(torch.full((4, 1), advantage), ONES), **options).terms
    return torch.autograd.grad(terms.sum(), evaluation.logp)[0]


@pytest.mark.parametrize("nats", [-3.0, 0.0, 5.0])
def test_strictly_on_policy_nothing_is_corrected_however_far_the_policy_is(nats):
    assert torch.equal(slope(strict_on_policy, nats, 0.7), slope(policy_gradient, 0.0, 0.7))


@pytest.mark.parametrize(("nats", "advantage", "wanted"), [(0.0, 1.0, -1.0), (0.5, 1.0, 0.0), (1.0, 1.0, 1.0), (-0.5, 0.0, -1.0)])
def test_dro_pulls_every_action_to_its_advantage_over_beta(nats, advantage, wanted):
    found = slope(dro, nats, advantage, beta=2.0)  # -(A - 2 d)
    torch.testing.assert_close(found, torch.where(four_answers().mask, wanted, 0.0))


def test_a_penalty_needs_a_strength():
    with pytest.raises(ValueError, match=r"dro: beta must be > 0, got 0.0"):
        slope(dro, 0.0, 1.0, beta=0.0)
