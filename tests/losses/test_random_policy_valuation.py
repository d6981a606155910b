"""ROVER's residual action by action. What it does on average, and where its premise fails, is in tests/exact."""

import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.random_policy_valuation import random_policy_valuation
from payoff.pipeline import Evaluation
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel

F64 = torch.float64
OLD = torch.full((4, 3), -1.0, dtype=F64)
TRAJ = four_answers().replace(logp={"old": OLD}, extras={"mean_logp": torch.full((4, 3), -2.0, dtype=F64)})
TARGET = Channel(torch.tensor([[0.5], [-0.5], [0.25], [-0.25]], dtype=F64), torch.ones(4, 1, dtype=torch.bool))


def test_the_bootstrap_is_that_of_the_next_own_action_and_tool_text_is_passed_over():
    traj = TRAJ.replace(mask=torch.tensor([[1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool())
    shift = torch.tensor([[9.0, 9.0, 0.3]] * 4, dtype=F64)
    found = random_policy_valuation(Evaluation(OLD, {"mean_logp": shift - 2.0}), traj, TARGET)
    # row 0: action 0 is followed by action 2: (0 - .5 - .3)^2; action 2 is last: .25
    assert found.terms[0].tolist() == pytest.approx([0.64, 0.0, 0.25])
    # row 1: two actions; the first sees U = 9 at the second
    assert found.terms[1].tolist() == pytest.approx([(0.5 - 9) ** 2, 0.25, 0.0])
    assert found.terms[3].tolist() == pytest.approx([0.0625, 0.0, 0.0])


def test_away_from_a_policy_that_acts_evenly_the_next_states_look_worse():
    """U = mean over actions of log pi - log(1 / K), which is at most 0 by Jensen's inequality, and 0 only where pi is even too."""
    even = Tabular(3, 2)
    traj = even.sequences()
    before = even.evaluate(traj, frozenset({"mean_logp"}))
    traj = traj.replace(logp={"old": before.logp.detach()}, extras={"mean_logp": before.more["mean_logp"].detach()})
    target = Channel(torch.zeros(9, 1, dtype=F64), torch.ones(9, 1, dtype=torch.bool))
    policy = Tabular(3, 2, spread=1.0, seed=2)
    found = random_policy_valuation(policy.evaluate(traj, frozenset({"mean_logp"})), traj, target)
    q = policy.evaluate(traj).logp.detach() - traj.logp["old"]
    looks = q[:, 0] - torch.where(q[:, 0] >= 0, 1, -1) * found.terms.detach()[:, 0].sqrt()  # either root of the squared error
    other = q[:, 0] + torch.where(q[:, 0] >= 0, 1, -1) * found.terms.detach()[:, 0].sqrt()
    ahead = policy.logits[0, 1:].log_softmax(1).mean(1).detach() + math.log(3)
    assert (ahead < 0).all()
    wanted = ahead.repeat_interleave(3)
    assert (torch.minimum((looks - wanted).abs(), (other - wanted).abs()) < 1e-12).all()
    assert random_policy_valuation(even.evaluate(traj, frozenset({"mean_logp"})), traj, target).terms.abs().max() < 1e-24


def test_no_gradient_goes_through_what_is_bootstrapped():
    logp, mean = OLD.clone().requires_grad_(), torch.full((4, 3), -1.5, dtype=F64, requires_grad=True)
    terms = random_policy_valuation(Evaluation(logp, {"mean_logp": mean}), TRAJ, TARGET).terms
    slope, none = torch.autograd.grad(terms.sum(), [logp, mean], allow_unused=True)
    assert none is None or none.abs().max() == 0
    # d (q - y)^2 = -2 y: y = .5 + .5 where an action follows
    assert slope[0].tolist() == pytest.approx([-2.0, -2.0, -1.0])


def test_padding_and_unknown_verdicts_give_nothing():
    hole = torch.where(TRAJ.exists, OLD, torch.nan)
    traj = TRAJ.replace(logp={"old": hole}, extras={"mean_logp": hole})
    logp = hole.clone().requires_grad_()
    target = Channel(TARGET.value, torch.tensor([[True], [False], [True], [True]]))
    found = random_policy_valuation(Evaluation(logp, {"mean_logp": hole}), traj, target)
    assert found.terms.isfinite().all()
    assert found.terms[1].abs().max() == 0
    assert torch.autograd.grad(found.terms.sum(), logp)[0].isfinite().all()
    assert found.metrics["error"] == pytest.approx((3 * 0.25 + 4 * 0.0625) / 7)


def test_what_is_needed_is_asked_for():
    with pytest.raises(ValueError, match="mean_logp"):
        random_policy_valuation(Evaluation(OLD, {}), TRAJ, TARGET)
