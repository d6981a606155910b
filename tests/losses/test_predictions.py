"""What a controller's features must foretell: the sign of the reward, its classes balanced, and the state."""

import math

import pytest
import torch

from payoff.losses.predictions import reward_sign_loss, reward_sign_mean, state_reconstruction_loss
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, Trajectories

# Two trajectories of 3 and 2 actions; rewards - 0 + and 0 0, the second's last one without a verdict.
LENGTH = torch.tensor([3, 2])
HERE = torch.arange(3) < LENGTH[:, None]
TRAJ = Trajectories(
    mask=HERE,
    length=LENGTH,
    group=torch.tensor([0, 1]),
    step=torch.where(HERE, torch.arange(3), -1).int(),
    stop=torch.zeros(2, dtype=torch.int64),
    actions=torch.zeros(2, 3),
)
REWARD = Channel(torch.tensor([[-1.0, 0.001, 2.0], [0.0, 5.0, torch.nan]]), torch.tensor([[True, True, True], [True, False, True]]))


def told(logits):
    return Evaluation(torch.zeros(2, 3), {"reward_sign": logits})


def test_every_class_has_the_same_weight_however_rare():
    # one punished, two unpaid, one paid: 1 / (3 classes x members)
    weight = reward_sign_mean(REWARD, TRAJ)
    torch.testing.assert_close(weight, torch.tensor([[1 / 3, 1 / 6, 1 / 3], [1 / 6, 0, 0]]))


def test_a_class_that_is_not_there_takes_no_share():
    # with eps 10 everything is unpaid: four known actions, one class
    weight = reward_sign_mean(REWARD, TRAJ, eps=10.0)
    torch.testing.assert_close(weight, torch.where(REWARD.valid & HERE, 0.25, 0.0))
    nothing = Channel(REWARD.value, torch.zeros(2, 1, dtype=torch.bool))
    assert reward_sign_mean(nothing, TRAJ).eq(0).all()


def test_the_balanced_loss_of_a_constant_prediction_is_the_mean_over_classes():
    # whoever always says (1/2, 1/4, 1/4) loses (log 2 + log 4 + log 4) / 3 however many actions each class has
    logits = torch.tensor([0.5, 0.25, 0.25]).log().expand(2, 3, 3)
    output = reward_sign_loss(told(logits), TRAJ, REWARD)
    loss = (output.terms * reward_sign_mean(REWARD, TRAJ)).sum()
    assert float(loss) == pytest.approx(5 * math.log(2) / 3, rel=1e-6)
    assert output.metrics["accuracy"] == pytest.approx(1 / 4)  # the one that was punished


def test_the_gradient_pushes_towards_the_class_and_nowhere_else():
    logits = torch.zeros(2, 3, 3, requires_grad=True)
    reward_sign_loss(told(logits), TRAJ, REWARD).terms.sum().backward()
    push = -logits.grad
    assert push[0].argmax(1).tolist() == [0, 1, 2]
    assert push[1, 1:].eq(0).all()  # no verdict, and beyond the end
    torch.testing.assert_close(push.sum(2), torch.zeros(2, 3))


def test_what_lies_off_the_trajectory_is_not_read():
    logits, seen = torch.randn(2, 3, 3), torch.randn(2, 3, 4)
    logits[1, 2], seen[1, 2] = torch.nan, torch.nan
    assert reward_sign_loss(told(logits.requires_grad_()), TRAJ, REWARD).terms.isfinite().all()
    more = {"reconstruction": seen.clone().requires_grad_(), "seen": seen}
    terms = state_reconstruction_loss(Evaluation(torch.zeros(2, 3), more), TRAJ, REWARD).terms
    terms.sum().backward()
    assert terms.eq(0).all()
    assert more["reconstruction"].grad.isfinite().all()


def test_the_distance_is_quadratic_near_and_linear_far_and_only_the_telling_learns():
    # gaps of 1/2 and 3: (1/8 + 5/2) / 2
    seen = torch.zeros(2, 3, 2, requires_grad=True)
    more = {"reconstruction": torch.tensor([0.5, -3.0]).repeat(2, 3, 1).requires_grad_(), "seen": seen}
    terms = state_reconstruction_loss(Evaluation(torch.zeros(2, 3), more), TRAJ, REWARD).terms
    torch.testing.assert_close(terms, torch.tensor([[1.3125, 1.3125, 1.3125], [1.3125, 0, 0]]))
    terms.sum().backward()
    assert seen.grad is None


def test_refusals():
    with pytest.raises(ValueError, match=r"needs evaluation.more\[\"reward_sign\"\]"):
        reward_sign_loss(Evaluation(torch.zeros(2, 3), {}), TRAJ, REWARD)
    with pytest.raises(ValueError, match="eps must be at least 0"):
        reward_sign_mean(REWARD, TRAJ, eps=-1.0)
    with pytest.raises(ValueError, match="seen"):
        state_reconstruction_loss(Evaluation(torch.zeros(2, 3), {"reconstruction": torch.zeros(2, 3, 1)}), TRAJ, REWARD)
