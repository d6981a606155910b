"""Balance against a reference, and with rewards at every prefix, on a policy that is no GFlowNet."""

import pytest
import torch

from payoff.credit.increments import log_step_scores
from payoff.examples import four_answers
from payoff.losses.gflownet import log_partition_variance
from payoff.losses.relative_balance import (
    prefix_reward_balance,
    relative_log_partition_variance,
    relative_trajectory_balance,
)
from payoff.pipeline import Evaluation
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, place_outcome, place_steps


def tabular_case(spread):
    """All sequences of a prior, a reward for each, and the log-probabilities of its tilted optimum, moved by `spread`."""
    prior = Tabular(3, 3, stop=2, spread=1.0, seed=3)
    reward = torch.randn(len(prior.tree), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    best = prior.optimum(reward, 1.0)
    with torch.no_grad():
        best.logits += spread * torch.randn(best.logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    traj = prior.sequences()
    traj = traj.replace(logp={"ref": traj.logp["old"]})
    return best, traj, place_outcome(reward, torch.ones(len(reward), dtype=torch.bool), traj)


def test_the_regularised_optimum_of_a_text_policy_is_in_relative_balance_and_nothing_near_it_is():
    for spread, at_balance in ((0.0, True), (0.3, False)):
        policy, traj, target = tabular_case(spread)
        terms = relative_log_partition_variance(policy.evaluate(traj), traj, target).terms
        (gradient,) = torch.autograd.grad(terms.sum(), policy.logits)
        assert (float(terms.abs().max().detach()) < 1e-20) is at_balance
        assert (float(gradient.abs().max()) < 1e-9) is at_balance


def test_the_learned_log_z_of_relative_balance_is_the_soft_value_of_the_start():
    policy, traj, target = tabular_case(0.0)
    prior = Tabular(3, 3, stop=2, spread=1.0, seed=3)
    _, soft = prior.soft_values(target.value.sum(1), 1.0)
    evaluation = policy.evaluate(traj)
    found = Evaluation(evaluation.logp, {"log_z": soft[0].detach().expand(len(traj))})
    assert float(relative_trajectory_balance(found, traj, target).terms.abs().max().detach()) < 1e-20


def test_without_a_reference_the_variance_form_leads_to_the_boltzmann_distribution():
    policy, traj, target = tabular_case(0.0)
    uniform = Tabular(3, 3, stop=2)
    # a tree has P_B = 1: balance is p(sequence) proportional to exp(reward)
    reward = target.value.sum(1)
    boltzmann = uniform.matching(reward.softmax(0))
    terms = log_partition_variance(boltzmann.evaluate(traj), traj, target).terms
    assert float(terms.abs().max().detach()) < 1e-20
    assert float(log_partition_variance(policy.evaluate(traj), traj, target).terms.max().detach()) > 0.1


def test_two_rollouts_regress_half_the_difference_of_implicit_and_given_reward():
    traj = four_answers()
    reward = place_outcome(torch.tensor([1.0, 0.0, 2.0, 2.0]), torch.ones(4, dtype=torch.bool), traj)
    logp = traj.logp["old"] + torch.tensor([[0.1], [0.2], [0.3], [0.4]]) * traj.exists
    terms = relative_log_partition_variance(Evaluation(logp, {}), traj, reward).terms.flatten()
    # sum log pi / pi_ref = 1.8, 1.4, 2.4, 0.9; minus the reward 0.8, 1.4, 0.4, -1.1: halves of the gaps 0.3 and 0.75
    assert terms.tolist() == pytest.approx([0.09, 0.09, 0.5625, 0.5625], abs=1e-6)


def test_a_group_of_one_has_nothing_to_say():
    traj = four_answers().replace(group=torch.arange(4))
    logp = traj.logp["old"].clone().requires_grad_()
    reward = place_outcome(torch.arange(4.0), torch.ones(4, dtype=torch.bool), traj)
    terms = relative_log_partition_variance(Evaluation(logp, {}), traj, reward).terms
    assert (terms == 0).all()
    assert torch.autograd.grad(terms.sum(), logp)[0].abs().max() == 0


def test_prefix_rewards_at_the_ends_of_steps_are_the_published_sum_over_pairs():
    # one trajectory of two steps of two actions and a stop; scores of the steps 0.5 and 0.8; log P(stop) before each action
    traj = four_answers().select(torch.tensor([0]))
    wide = {
        "mask": torch.ones(1, 5, dtype=torch.bool),
        "length": torch.tensor([5]),
        "step": torch.tensor([[0, 0, 1, 1, 2]]).int(),
        "actions": torch.zeros(1, 5).long(),
    }
    traj = type(traj)(group=torch.tensor([0]), stop=torch.tensor([0]), **wide)
    logp = torch.tensor([[-0.3, -0.4, -0.5, -0.6, -0.9]])
    stop = torch.tensor([[-2.0, -50.0, -1.5, -50.0, -0.9, 0.0]])
    scores = place_steps(torch.tensor([[0.5, 0.8, 1.0]]), torch.ones(1, 3, dtype=torch.bool), traj)
    gains = log_step_scores(scores, traj)
    found = prefix_reward_balance(Evaluation(logp, {"stop_logp": stop}), traj, gains)
    log_r = torch.tensor([0.0, 0.5, 0.5 * 0.8]).log().clamp(min=-1e9)
    log_r[0] = 0.0
    at, forward = torch.tensor([-2.0, -1.5, -0.9]), torch.tensor([-0.7, -1.1])
    pairs = [(0, 1), (0, 2), (1, 2)]
    residual = [log_r[i] + forward[i:j].sum() + at[j] - log_r[j] - at[i] for i, j in pairs]
    assert float(found.terms[0, 0]) == pytest.approx(float(torch.stack(residual).square().mean()), rel=1e-5)


def test_what_is_missing_is_named():
    traj = four_answers()
    evaluation = Evaluation(traj.logp["old"], {})
    target = Channel(torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="without one, use the variance form"):
        relative_trajectory_balance(evaluation, traj, target)
    with pytest.raises(ValueError, match="the log-probability of stopping at each state"):
        prefix_reward_balance(evaluation, traj, target)
    bare = type(traj)(**{name: getattr(traj, name) for name in ("mask", "length", "group", "step", "stop", "actions")})
    with pytest.raises(ValueError, match=r'needs traj.logp\["ref"\]'):
        relative_log_partition_variance(evaluation, bare, target)
