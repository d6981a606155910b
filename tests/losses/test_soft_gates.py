import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.soft_gates import sapo, vespo
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel

ONES = torch.ones(4, 1, dtype=torch.bool)


def slope(loss, nats: float, advantage: float, **options) -> torch.Tensor:
    """The gradient by log pi of one action of one action's sequence (row 3), all actions moved by so many nats."""
    traj = four_answers()
    evaluation = Evaluation((traj.logp["old"].double() + nats).requires_grad_(), {})
    traj = traj.replace(logp={"old": traj.logp["old"].double()})
    output = loss(evaluation, traj, Channel(torch.full((4, 1), advantage).double(), ONES), **options)
    return torch.autograd.grad(output.terms.sum(), evaluation.logp)[0]


@pytest.mark.parametrize(("advantage", "tau"), [(1.0, 1.0), (-1.0, 1.05), (0.5, 1.0), (-2.0, 1.05)])
@pytest.mark.parametrize("ratio", [0.1, 0.7, 1.0, 1.5, 4.0])
def test_the_gradient_of_the_soft_gate_is_a_squared_hyperbolic_secant(ratio, advantage, tau):
    wanted = -advantage * ratio / math.cosh(tau * (ratio - 1) / 2) ** 2
    assert float(slope(sapo, math.log(ratio), advantage)[3, 0]) == pytest.approx(wanted, rel=1e-9)


def test_the_gate_is_the_same_at_equal_distances_from_one_and_closes_sooner_for_bad_actions():
    up, down = (-slope(sapo, math.log(r), 1.0)[3, 0] / r for r in (1.6, 0.4))
    torch.testing.assert_close(up, down)
    good, bad = (slope(sapo, math.log(3.0), a)[3, 0].abs() for a in (1.0, -1.0))
    assert bad < good


def test_a_large_temperature_leaves_a_gradient_only_at_ratio_one():
    options = {"temperature": 200.0, "negative_temperature": 200.0}
    assert float(slope(sapo, 0.0, 1.0, **options)[3, 0]) == pytest.approx(-1.0)
    assert float(slope(sapo, math.log(1.2), 1.0, **options)[3, 0].abs()) < 1e-12


def test_no_action_is_quite_silent():
    assert (slope(sapo, math.log(8.0), 1.0)[3, 0].abs() > 1e-3).all()


@pytest.mark.parametrize(("advantage", "k", "strength"), [(1.0, 2.0, 3.0), (-1.0, 3.0, 2.0)])
@pytest.mark.parametrize("nats", [-0.3, 0.0, 0.2])
def test_the_weight_of_vespo_is_that_of_the_whole_sequence(nats, advantage, k, strength):
    grad = slope(vespo, nats, advantage)
    for row, size in enumerate((3, 2, 3, 1)):
        w = math.exp(nats * size)
        wanted = -advantage * w**k * math.exp(strength * (1 - w))
        assert grad[row, :size].tolist() == pytest.approx([wanted] * size, rel=1e-9)
        assert not grad[row, size:].any()


def test_vespo_trusts_most_at_power_over_decay_and_not_at_all_far_away():
    weight = lambda w: float(slope(vespo, math.log(w), 1.0)[3, 0].abs())
    top = weight(2 / 3)
    assert top > weight(0.6)
    assert top > weight(0.75)
    assert weight(1e-4) < 1e-6
    assert weight(20.0) < 1e-6


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"sapo: temperatures must be > 0, got 0.0 and 1.05"):
        slope(sapo, 0.0, 1.0, temperature=0.0)
    with pytest.raises(ValueError, match=r"vespo: negative_decay must be at least 0, got -1.0"):
        slope(vespo, 0.0, 1.0, negative_decay=-1.0)
