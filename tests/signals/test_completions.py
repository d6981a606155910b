"""Gains of deterministic completions: they telescope, and say which noise did it."""

import functools

import pytest
import torch

from payoff.contents import needs
from payoff.credit.returns import immediate, return_to_go
from payoff.pipeline import Start
from payoff.policies.denoising import schedule
from payoff.policies.flow import Flow
from payoff.policies.flow_networks import VelocityMLP
from payoff.signals.completions import completion_gains
from payoff.tasks.mixture import mixture_direction, mixture_distance
from payoff.trajectories import Channel, outcome, place_outcome

START = [Start("a", {"goal": [1.0, 0.5]})]
NAME = "mixture-distance"


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return Flow(VelocityMLP(2, width=16), (2,), schedule(6)).double()


def completed(policy, traj):
    return traj.replace(extras={"completed": policy.evaluate(traj, frozenset({"completed"})).more["completed"]})


def rng():
    return torch.Generator().manual_seed(2)


def test_gains_sum_to_the_reward_less_that_of_the_start_without_noise(policy):
    traj = completed(policy, policy.rollout(START, 5, rng()))
    gains = completion_gains(traj, reward=NAME)[NAME]
    from_start = policy.resume(traj, torch.arange(5), torch.zeros(5, dtype=torch.int64), 1, rng(), noisy=0)
    wanted = outcome(mixture_distance(traj)[NAME], traj)[0] - outcome(mixture_distance(from_start)[NAME], from_start)[0]
    torch.testing.assert_close(outcome(gains, traj)[0], wanted)


def test_each_gain_is_the_difference_of_two_completions(policy):
    traj = completed(policy, policy.rollout(START, 3, rng()))
    gains = completion_gains(traj, reward=mixture_distance)[NAME]
    ends = [policy.resume(traj, torch.arange(3), torch.full((3,), k), 1, rng(), noisy=0) for k in (2, 3)]
    before, after = (outcome(mixture_distance(end)[NAME], end)[0] for end in ends)
    torch.testing.assert_close(gains.value[:, 2], after - before)
    torch.testing.assert_close(immediate(gains, traj).value[:, 2], after - before)


def test_without_noise_nothing_is_gained_and_with_one_noisy_step_all_of_it_is_gained_there(policy):
    policy.acts = "one"
    traj = completed(policy, policy.rollout(START * 4, 2, rng()))
    gains = completion_gains(traj, reward=NAME)[NAME].value
    assert torch.where(traj.mask, 0, gains).abs().max() < 1e-12
    assert gains[traj.mask].abs().min() > 1e-6
    ode = policy.resume(traj, torch.arange(8), torch.zeros(8, dtype=torch.int64), 1, rng(), noisy=0)
    assert completion_gains(completed(policy, ode), reward=NAME)[NAME].value.abs().max() < 1e-12


def test_the_return_differs_from_the_reward_by_what_the_past_has_fixed(policy):
    traj = completed(policy, policy.rollout(START, 4, rng()))
    to_go = return_to_go(completion_gains(traj, reward=NAME)[NAME], traj).value
    final = outcome(mixture_distance(traj)[NAME], traj)[0]
    shifted = traj.replace(extras={"latents": torch.cat([traj.extras["latents"][:, :-1], traj.extras["completed"][:, 3:4]], 1)})
    torch.testing.assert_close(final - to_go[:, 3], outcome(mixture_distance(shifted)[NAME], traj)[0])


def test_an_end_without_verdict_costs_the_two_gains_beside_it_and_no_others(policy):
    traj = completed(policy, policy.rollout(START, 2, rng()))
    ends = traj.extras["completed"].clone()
    ends[0, 3] = torch.nan
    gains = completion_gains(traj.replace(extras={"completed": ends}), reward=NAME)[NAME]
    assert gains.valid[0].tolist() == [True, True, False, False, True, True]
    assert gains.valid[1].all()
    assert not gains.value[0, 2:4].any()


def test_shorter_trajectories_end_where_they_end(policy):
    whole = policy.rollout(START, 2, rng())
    traj = completed(policy, policy.resume(whole, torch.tensor([0, 1]), torch.tensor([0, 3]), 1, rng(), horizon=3))
    assert traj.length.tolist() == [3, 6]
    gains = completion_gains(traj, reward=NAME)[NAME]
    assert not gains.value[0, 3:].any()
    dirty = traj.extras["completed"].clone()
    dirty[0, 4:] = torch.nan
    again = completion_gains(traj.replace(extras={"completed": dirty}), reward=NAME)[NAME]
    assert torch.equal(again.value, gains.value)
    assert outcome(again, traj)[1].all()


def test_graders_see_the_completed_sample(policy):
    traj = completed(policy, policy.rollout(START, 2, rng()))

    def first(some):
        value = torch.tensor([item["sample"][0] for item in some.items], dtype=torch.float64)
        return {"first": place_outcome(value, torch.ones(len(some), dtype=torch.bool), some)}

    gains = completion_gains(traj, reward=first)["first"].value
    torch.testing.assert_close(gains, traj.extras["completed"][:, 1:, 0] - traj.extras["completed"][:, :-1, 0])


def test_it_asks_the_policy_for_completions(policy):
    part = functools.partial(completion_gains, reward=mixture_direction)
    assert "completed" in needs(part)
    assert needs(part) <= policy.offers
    with pytest.raises(ValueError, match="completed"):
        completion_gains(policy.rollout(START, 2, rng()), reward=NAME)


def test_a_channel_of_one_column_is_gained_from_too(policy):
    traj = completed(policy, policy.rollout(START, 2, rng()))
    unknown = lambda some: {"x": Channel(torch.zeros(2, 1), torch.tensor([[True], [False]]))}
    gains = completion_gains(traj, reward=unknown)["x"]
    assert gains.valid[0].all()
    assert not gains.valid[1].any()
