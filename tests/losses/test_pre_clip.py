import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.policy_gradient import dual_clip, ppo_clip
from payoff.losses.pre_clip import stable_reinforce
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel

ONES = torch.ones(4, 1, dtype=torch.bool)


def both(loss, nats: torch.Tensor | float, advantage: torch.Tensor | float, **options) -> tuple[torch.Tensor, torch.Tensor]:
    traj = four_answers()
    evaluation = Evaluation((traj.logp["old"] + nats).requires_grad_(), {})
    target = Channel(torch.as_tensor(advantage).expand(4, 1), ONES)
    terms = loss(evaluation, traj, target, **options).terms
    return terms.detach(), torch.autograd.grad(terms.sum(), evaluation.logp)[0]


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_inside_the_range_it_is_ppo_to_the_bit(advantage):
    nats = 4 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).clamp(-1.7, 1.7)
    assert nats.abs().max() < math.log(1e3)
    for one, other in zip(both(stable_reinforce, nats, advantage), both(ppo_clip, nats, advantage), strict=True):
        assert torch.equal(one, other)


def test_a_bad_action_beyond_the_range_has_no_gradient_and_a_bounded_loss():
    terms, grad = both(stable_reinforce, 12.0, -1.0)
    assert terms[0].tolist() == pytest.approx([1000.0] * 3, rel=1e-5)
    assert not grad.any()
    assert both(ppo_clip, 12.0, -1.0)[1][0, 0] == pytest.approx(math.exp(12.0), rel=1e-5)
    assert not both(dual_clip, 12.0, -1.0)[1].any()
    assert both(stable_reinforce, 2.0, -1.0)[1][0, 0] == pytest.approx(math.exp(2.0), rel=1e-5)  # where the dual clip is silent
    assert not both(dual_clip, 2.0, -1.0)[1].any()


def test_the_share_outside_the_range_is_reported():
    traj = four_answers()
    moved = Evaluation(traj.logp["old"] + torch.tensor([12.0, -12.0, 0.0]), {})
    metrics = stable_reinforce(moved, traj, Channel(torch.ones(4, 1), ONES)).metrics
    assert metrics["pre_clip_fraction"] == pytest.approx(7 / 9)


def test_mistakes_are_named():
    for options in ({"smallest": 2.0}, {"largest": 0.5}, {"largest": 1e12}):
        with pytest.raises(ValueError, match="needs smallest < 1 < largest, both within 20 nats"):
            both(stable_reinforce, 0.0, 1.0, **options)
    with pytest.raises(ValueError, match="stable_reinforce: low must lie in"):
        both(stable_reinforce, 0.0, 1.0, low=2.0)
