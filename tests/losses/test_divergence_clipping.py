import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.divergence_clipping import dppo_kl, dppo_tv
from payoff.losses.policy_gradient import ppo_clip
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel

ONES = torch.ones(4, 1, dtype=torch.bool)
BOTH = pytest.mark.parametrize("loss", [dppo_tv, dppo_kl])


def slope(loss, old: float, new: float, advantage: float, **options) -> float:
    """The gradient by log pi of one action that had probability `old` and now has `new`."""
    base = four_answers()
    traj = base.replace(logp={"old": torch.full((4, 3), math.log(old), dtype=torch.float64)})
    evaluation = Evaluation(torch.full((4, 3), math.log(new), dtype=torch.float64, requires_grad=True), {})
    output = loss(evaluation, traj, Channel(torch.full((4, 1), advantage, dtype=torch.float64), ONES), **options)
    return float(torch.autograd.grad(output.terms[3, 0], evaluation.logp)[0][3, 0])


@BOTH
def test_a_rare_action_may_grow_a_hundredfold_and_a_likely_one_may_not_lose_a_fifth(loss):
    assert slope(loss, 1e-5, 1e-3, 1.0) == pytest.approx(-20.0)  # held at the bound of the weight, not silenced
    assert slope(ppo_clip, 1e-5, 1e-3, 1.0) == 0
    assert slope(loss, 0.99, 0.79, -1.0) == 0
    assert slope(ppo_clip, 0.99, 0.8, -1.0) == pytest.approx(0.8 / 0.99)


@BOTH
@pytest.mark.parametrize(("old", "new", "advantage"), [(0.2, 0.8, -1.0), (0.8, 0.2, 1.0), (0.5, 0.52, 1.0), (0.5, 0.48, -1.0)])
def test_what_leads_back_or_has_not_gone_far_keeps_its_full_weight(loss, old, new, advantage):
    assert slope(loss, old, new, advantage) == pytest.approx(-advantage * new / old)


def test_the_thresholds_are_of_mass_and_of_nats():
    assert slope(dppo_tv, 0.3, 0.449, 1.0) != 0
    assert slope(dppo_tv, 0.3, 0.451, 1.0) == 0
    # KL of (0.5, 0.5) against (p, 1 - p): 0.0491 at p = 0.65, 0.0557 at p = 0.66
    assert slope(dppo_kl, 0.5, 0.65, 1.0) != 0
    assert slope(dppo_kl, 0.5, 0.66, 1.0) == 0
    assert slope(dppo_kl, 0.5, 0.34, -1.0) == 0
    assert slope(dppo_kl, 0.5, 0.34, -1.0, low=0.06) == pytest.approx(0.68)


def test_the_divergence_forgives_less_where_mass_leaves_a_nearly_certain_action():
    assert slope(dppo_tv, 0.999, 0.9, -1.0) != 0
    assert slope(dppo_kl, 0.999, 0.9, -1.0) == 0


@BOTH
def test_certainty_and_impossibility_are_finite(loss):
    for old, new in ((1.0, 1e-30), (1e-30, 1.0), (1.0, 1.0)):
        for advantage in (1.0, -1.0):
            assert math.isfinite(slope(loss, old, new, advantage))


@BOTH
def test_mistakes_are_named(loss):
    name = loss.__name__
    with pytest.raises(ValueError, match=f"{name}: low and high must be at least 0 and bound at least 1"):
        slope(loss, 0.5, 0.5, 1.0, bound=0.5)
    base = four_answers()
    with pytest.raises(ValueError, match=f"{name}: needs probabilities of actions"):
        loss(Evaluation(base.logp["old"], {}), base.replace(actions=torch.zeros(4, 3, 2)), Channel(torch.ones(4, 1), ONES))
