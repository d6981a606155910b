import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.truncated_weights import cispo, truncated_importance
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel

ONES = torch.ones(4, 1, dtype=torch.bool)


def slope(loss, ratios, advantage: float = 1.0, traj=None, **options) -> torch.Tensor:
    traj = traj or four_answers()
    evaluation = Evaluation((traj.logp["old"] + torch.tensor(ratios).log()).requires_grad_(), {})
    output = loss(evaluation, traj, Channel(torch.full((4, 1), advantage), ONES), **options)
    return torch.autograd.grad(output.terms.sum(), evaluation.logp)[0]


@pytest.mark.parametrize("advantage", [1.0, -0.5])
def test_cispo_bounds_the_weight_and_silences_nothing(advantage):
    grad = slope(cispo, [9.0, 0.1, 1.1], advantage, low=0.5, high=0.5)
    torch.testing.assert_close(grad[0], -advantage * torch.tensor([1.5, 0.5, 1.1]))
    without = slope(cispo, [9.0, 0.1, 1.1], advantage, high=0.5)
    torch.testing.assert_close(without[0], -advantage * torch.tensor([1.5, 0.1, 1.1]))


def test_too_large_weights_are_held_and_with_a_lower_bound_left_out():
    ratios = [5.0, 0.1, 1.2]
    torch.testing.assert_close(slope(truncated_importance, ratios)[0], -torch.tensor([2.0, 0.1, 1.2]))
    torch.testing.assert_close(slope(truncated_importance, ratios, least=0.5)[0], -torch.tensor([0.0, 0.0, 1.2]))


def test_weights_of_sequences_and_steps_are_products():
    base = four_answers()
    traj = base.replace(step=torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]], dtype=torch.int32))
    by_sequence = slope(truncated_importance, [2.0, 1.5, 0.5], traj=traj, bound=10.0, level="sequence")
    by_step = slope(truncated_importance, [2.0, 1.5, 0.5], traj=traj, bound=10.0, level="step")
    torch.testing.assert_close(by_sequence, -torch.tensor([[1.5] * 3, [3.0, 3.0, 0.0], [1.5] * 3, [2.0, 0.0, 0.0]]))
    torch.testing.assert_close(by_step[0], -torch.tensor([3.0, 3.0, 0.5]))


def test_metrics_by_hand():
    traj = four_answers()
    target = Channel(torch.ones(4, 1), ONES)
    evaluation = Evaluation(traj.logp["old"] + torch.tensor([4.0, 1.0, 0.25]).log(), {})
    # four first actions at 4, three second at 1, two third at 1/4
    metrics = truncated_importance(evaluation, traj, target, least=0.5).metrics
    assert metrics["truncated_fraction"] == pytest.approx(6 / 9)
    assert metrics["weight"] == pytest.approx(3 / 9)
    assert metrics["ratio"] == pytest.approx((16 + 3 + 0.5) / 9)
    assert cispo(evaluation, traj, target, high=1.0).metrics["clip_fraction"] == pytest.approx(4 / 9)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="cispo: low must lie in"):
        slope(cispo, [1.0] * 3, low=10.0)
    for options in ({"bound": 0.5}, {"least": 1.5}):
        with pytest.raises(ValueError, match="truncated_importance: needs least <= 1 <= bound"):
            slope(truncated_importance, [1.0] * 3, **options)
