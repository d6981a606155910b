"""Direct Advantage Policy Optimization: its gradient is that of a regularised improvement, and its minimum no policy's."""

import dataclasses

import pytest
import torch
from torch import nn

from payoff.examples import four_answers
from payoff.losses.step_regression import direct_advantage, step_mean
from payoff.pipeline import Evaluation
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel

BETA, F64 = 0.5, torch.float64
ADVANTAGE = torch.tensor([0.6, -0.1, -0.3], dtype=F64)


def one_state(policy: Tabular, reference: Tabular, weights: torch.Tensor, advantage: torch.Tensor = ADVANTAGE) -> torch.Tensor:
    """The loss of all three steps of one state, weighed as given."""
    traj = policy.sequences()
    traj = traj.replace(logp={"ref": reference.evaluate(traj).logp.detach()})
    target = Channel(advantage[:, None], torch.ones(3, 1, dtype=torch.bool))
    terms = direct_advantage(policy.evaluate(traj), traj, target, beta=BETA).terms
    return (terms[:, 0] * weights).sum()


def table(*logits: float) -> Tabular:
    return Tabular(3, 1, logits=torch.tensor([logits], dtype=F64))


def gradient(value: torch.Tensor, policy: Tabular) -> torch.Tensor:
    return torch.autograd.grad(value, policy.logits)[0]


@pytest.mark.parametrize("logits", [(0.2, -0.4, 0.9), (1.5, 0.0, -1.0)], ids=["at the reference", "away from it"])
def test_on_its_own_steps_it_climbs_advantage_less_divergence(logits):
    policy, reference = table(*logits), table(0.2, -0.4, 0.9)
    found = gradient(one_state(policy, reference, policy.probabilities().detach()), policy)
    p, q = policy.probabilities(), reference.probabilities().detach()
    improvement = (p * ADVANTAGE).sum() - BETA * (p * (p / q).log()).sum()
    torch.testing.assert_close(found, -gradient(improvement, policy) / BETA)


def test_each_step_alone_would_take_more_than_all_the_mass():
    policy = reference = table(0.2, -0.4, 0.9)
    q = reference.probabilities().detach()
    advantage = ADVANTAGE - (q * ADVANTAGE).sum()  # no advantage on average
    assert float((q * (advantage / BETA).exp()).sum()) > 1.05
    policy = table(0.0, 0.0, 0.0)
    optimiser = torch.optim.LBFGS(policy.parameters(), max_iter=100, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = one_state(policy, reference, q, advantage)
        loss.backward()
        return loss

    optimiser.step(closure)
    best = float(closure().detach())
    assert 1e-3 < best < float(one_state(reference, reference, q, advantage).detach())
    assert policy.logits.grad.abs().max() < 1e-4
    shifted = gradient(one_state(policy, reference, q, advantage + 0.3), policy)
    assert shifted.abs().max() > 1e-3  # a constant is no baseline here
    improved = (policy.probabilities() * advantage).sum()
    assert float(improved.detach()) > 0.05  # better than the reference at this state


def test_a_step_of_several_tokens_is_one_term_and_padding_is_not_read():
    traj = four_answers()
    steps = torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]]).int()
    hole = lambda x: torch.where(traj.exists, x, torch.nan)
    traj = dataclasses.replace(traj, step=steps, logp={"ref": hole(torch.full((4, 3), -1.0))})
    logp = nn.Parameter(hole(torch.tensor([[-0.5, -0.75, -2.0]] * 4)))
    target = Channel(hole(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [1.0, 0.0, 0.0]])), traj.exists)
    terms = direct_advantage(Evaluation(logp, {}), traj, target, beta=1.0).terms
    # log-ratios are 0.5, 0.25, -1; by step: 0.75, -1 | 0.75 | 0.5, -0.75 | 0.5; less A: 0.25, 1 | -0.75 | 1.5, 0.75 | 0.5
    wanted = torch.tensor([[0.25, 0.25, 1.0], [0.75, 0.75, 0.0], [1.5, 0.75, 0.75], [0.5, 0.0, 0.0]]).square() / 2
    torch.testing.assert_close(terms, wanted)
    half = direct_advantage(
        Evaluation(logp, {}), traj, target, beta=0.5
    )  # 0.375 - 1, -0.5 - 0 | 0.375 | 0.25 - 2, -0.375 | 0.25 - 1
    wanted = (0.625**2 + 0.5**2 + 0.375**2 + 1.75**2 + 0.375**2 + 0.75**2) / 6
    assert half.metrics["error"] == pytest.approx(wanted**0.5)
    loss = (terms * step_mean(target, traj)).sum()
    assert float(loss.detach()) == pytest.approx((0.25**2 + 1 + 0.75**2 + 1.5**2 + 0.75**2 + 0.5**2) / 2 / 6)
    loss.backward()
    assert torch.isfinite(logp.grad[traj.exists]).all()
    assert (logp.grad[~traj.exists] == 0).all()
    unknown = target._replace(valid=target.valid & (steps != 1))
    assert step_mean(unknown, traj).sum() == pytest.approx(1.0)
    assert step_mean(target._replace(valid=torch.zeros_like(target.valid)), traj).sum() == 0


def test_what_is_lacking_is_named():
    traj, target = four_answers(), Channel(torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="beta must be > 0"):
        direct_advantage(Evaluation(traj.logp["old"], {}), traj, target, beta=0.0)
    with pytest.raises(ValueError, match="ref"):
        direct_advantage(Evaluation(traj.logp["old"], {}), dataclasses.replace(traj, logp={}), target)
