"""Steps of self-play, round after round, and GPO's regression. Single steps of INPO and DNO are in `test_preferences`."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.nash_preferences import gpo
from payoff.pipeline import Evaluation
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel


def column(value):
    return Channel(value[:, None], torch.ones(len(value), 1, dtype=torch.bool))


def test_gpo_on_differences_of_rewards_has_its_least_error_at_the_tilted_policy():
    old = Tabular(3, 2, spread=0.7, seed=1)
    traj = old.sequences()
    reward = torch.randn(9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    p, beta = old.probabilities().detach(), 0.5
    score = reward[:, None] - reward  # antisymmetric
    mean = score @ p  # r less its mean under the policy
    best = old.optimum(reward, beta)
    shift = float((p * (mean / beta).exp()).sum().log())  # the log-partition that is taken as 0
    terms = gpo(best.evaluate(traj), traj, column(mean), beta=beta).terms[:, 0]
    torch.testing.assert_close(terms, torch.full((9,), shift**2, dtype=torch.float64))
    stay = gpo(old.evaluate(traj), traj, column(mean), beta=beta).terms[:, 0]
    assert p @ stay > p @ terms


def test_scores_of_a_cycle_leave_its_uniform_policy_where_it_is():
    old = Tabular(3, 1)
    cycle = torch.tensor([[0.0, 1, -1], [-1, 0, 1], [1, -1, 0]], dtype=torch.float64)
    traj = old.sequences()
    output = gpo(old.evaluate(traj), traj, column(cycle.mean(1)), beta=1e-3)
    assert not output.terms.any()


def test_gpo_leaves_out_what_is_unknown_and_reads_no_padding():
    traj = four_answers()
    score = Channel(torch.tensor([[1.0], [-1.0], [9.0], [0.5]]), torch.tensor([[True], [True], [False], [True]]))
    dirty = traj.replace(logp={name: torch.where(traj.mask, value, torch.nan) for name, value in traj.logp.items()})
    logp = (dirty.logp["old"] - 0.1).requires_grad_()
    output = gpo(Evaluation(logp, {}), dirty, score, beta=1.0)
    assert output.terms[:, 0].tolist() == pytest.approx([1.3**2, 0.8**2, 0.0, 0.6**2])
    output.terms.sum().backward()
    assert logp.grad.isfinite().all()
    assert not logp.grad[2].any()
    with pytest.raises(ValueError, match="gpo: beta must be > 0"):
        gpo(Evaluation(logp, {}), dirty, score, beta=0.0)
