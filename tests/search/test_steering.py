"""Steering: the exact normaliser and the exact tilted law, on a table and on a Gaussian flow."""

import functools
import math

import pytest
import torch
from torch import nn

from payoff.grading import signal
from payoff.pipeline import Start
from payoff.policies.denoising import schedule, signal_and_noise
from payoff.policies.flow import Flow
from payoff.policies.tabular import Tabular
from payoff.search.steering import steer
from payoff.tasks.mixture import Mixture, mixture_distance, mixture_quadratic
from payoff.tasks.tree import Tree, tree_leaf
from payoff.trajectories import outcome, place_outcome

LEAVES = {"ab": 0.5, "ba": -0.3, "bb": 1.0}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def table(stop=None):
    """A policy over short sequences, the reward of each, and starts."""
    task = Tree(vocabulary=2, horizon=2, stop=stop, leaf_rewards=LEAVES if stop is None else {"b": 1.0, "": 0.5})
    return Tabular(2, 2, stop=stop, spread=0.7, seed=3), task, signal(tree_leaf)


@pytest.mark.parametrize(
    ("potential", "adaptive", "stop"),
    [("difference", False, None), ("max", False, 0), ("sum", True, 0), ("last", True, None), ("max", True, None)],
)
def test_the_normaliser_is_unbiased_for_three_particles(potential, adaptive, stop):
    policy, task, reward = table(stop)
    strength = 1.5
    exact = float(policy.probabilities().detach() @ (strength * task.leaves()).exp())
    starts = task.starts(1200, rng())
    found = steer(policy, starts, reward, rng(1), particles=3, strength=strength, potential=potential, adaptive=adaptive)
    estimate = found.log_normaliser.exp()
    error = float(estimate.std() / len(estimate) ** 0.5)
    assert error < 0.08 * exact
    assert abs(float(estimate.mean()) - exact) < 4 * error
    assert found.traj.length.max() == 2


@pytest.mark.parametrize("potential", ["difference", "max", "sum", "last"])
def test_the_law_is_the_tilted_one(potential):
    policy, task, reward = table()
    strength = 2.0
    wanted = policy.probabilities().detach() * (strength * task.leaves()).exp()
    found = steer(policy, task.starts(30, rng()), reward, rng(1), particles=64, strength=strength, potential=potential)
    place = {response: i for i, response in enumerate(task.responses)}
    leaf = torch.tensor([place[item["response"]] for item in found.traj.items])
    law = torch.zeros(4, dtype=torch.float64).index_add(0, leaf, found.log_weight.exp() / 30)
    assert (law - wanted / wanted.sum()).abs().sum() / 2 < 0.03


def test_strength_zero_and_a_single_particle_change_nothing():
    policy, task, reward = table()
    alone = steer(policy, task.starts(1600, rng()), reward, rng(1), particles=1, strength=3.0)
    assert torch.equal(alone.log_weight, torch.zeros(1600, dtype=torch.float64))
    place = {response: i for i, response in enumerate(task.responses)}
    free = steer(policy, task.starts(400, rng()), reward, rng(1), particles=4, strength=0.0)
    torch.testing.assert_close(free.log_normaliser, torch.zeros(400, dtype=torch.float64))
    for found in (alone, free):
        law = torch.tensor([place[item["response"]] for item in found.traj.items]).bincount(minlength=4) / 1600
        assert (law - policy.probabilities().detach()).abs().max() < 0.05


def test_without_redrawing_it_is_importance_sampling():
    policy, task, reward = table()
    found = steer(policy, task.starts(5, rng()), reward, rng(1), particles=6, strength=2.0, every=None)
    worth = torch.tensor([LEAVES.get(item["response"], 0.0) for item in found.traj.items], dtype=torch.float64).reshape(5, 6)
    torch.testing.assert_close(found.log_weight.reshape(5, 6), (2 * worth).log_softmax(1))
    torch.testing.assert_close(found.log_normaliser, (2 * worth).logsumexp(1) - math.log(6))
    assert found.resampled == 0


def test_a_constant_added_to_the_reward_changes_the_normaliser_alone():
    policy, task, _ = table()
    lifted = lambda some: {"r": outcome_of(some, 10.0)}
    plain = lambda some: {"r": outcome_of(some, 0.0)}
    one, two = (steer(policy, task.starts(20, rng()), r, rng(1), potential="last", strength=2.0) for r in (plain, lifted))
    assert [i["response"] for i in one.traj.items] == [i["response"] for i in two.traj.items]
    torch.testing.assert_close(one.log_weight, two.log_weight)
    torch.testing.assert_close(one.log_normaliser + 20, two.log_normaliser)


def outcome_of(traj, lift):
    worth = torch.tensor([LEAVES.get(item["response"], 0.0) + lift for item in traj.items], dtype=torch.float64)
    return place_outcome(worth, torch.ones(len(traj), dtype=torch.bool), traj)


def test_particles_without_verdict_have_no_weight_unless_none_has():
    policy, _, reward = table()
    task = Tree(vocabulary=2, horizon=2, leaf_rewards={"aa": None, "ab": None})
    found = steer(policy, task.starts(40, rng()), reward, rng(1), particles=4, strength=1.0, every=None)
    unknown = torch.tensor([item["response"][0] == "a" for item in found.traj.items])
    weight = found.log_weight.exp()
    some = ~unknown.reshape(40, 4).all(1).repeat_interleave(4)
    assert not weight[unknown & some].any()
    torch.testing.assert_close(weight[~some], torch.full_like(weight[~some], 0.25))
    torch.testing.assert_close(weight.reshape(40, 4).sum(1), torch.ones(40, dtype=torch.float64))
    again = steer(policy, task.starts(40, rng()), reward, rng(1), particles=4, strength=1.0)
    assert again.log_weight.exp().isfinite().all()


class Exact(nn.Module):
    def __init__(self, mixture):
        super().__init__()
        self.mixture = mixture
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x, t, condition):
        return self.mixture.velocity(x, *signal_and_noise(t, "rectified"))


@pytest.mark.slow
@pytest.mark.parametrize("potential", ["difference", "max"])
def test_a_gaussian_flow_is_steered_to_its_tilted_law(potential):
    task = Mixture(modes=1, radius=1.0, spread=0.5)
    policy = Flow(Exact(task.distribution), (2,), schedule(20))
    goal, strength = (0.0, 0.5), 4.0
    reward = functools.partial(mixture_quadratic, strength=1.0, goal=goal)
    found = steer(policy, task.starts(30, rng()), reward, rng(1), particles=128, strength=strength, potential=potential, every=4)
    end, weight = found.traj.actions[:, -1], found.log_weight.exp()[:, None] / 30
    tilted = task.distribution.tilted(torch.tensor(goal, dtype=torch.float64), strength)
    mean = (weight * end).sum(0)
    spread = (weight * (end - mean).square()).sum(0).sqrt()
    assert (mean - tilted.means[0]).abs().max() < 0.05  # from (1, 0) to (0.5, 0.25)
    torch.testing.assert_close(spread, tilted.spreads[0].expand(2), rtol=0.06, atol=0)  # from 0.5 to 0.354
    # E exp(-q |x - g|^2 / 2) of N(m, s^2 I): exp(-q |m - g|^2 / (2 (1 + q s^2))) / (1 + q s^2), here exp(-1.25) / 2
    estimate = found.log_normaliser.exp()
    error = float(estimate.std() / len(estimate) ** 0.5)
    assert abs(float(estimate.mean()) - math.exp(-1.25) / 2) < 4 * error + 0.003


def test_with_as_many_particles_steering_beats_best_of_n_where_the_end_can_be_foreseen():
    task = Mixture(modes=8, spread=0.2)
    policy = Flow(Exact(task.distribution), (2,), schedule(12, level=1.4))
    starts = task.starts(100, rng())
    worth = {}
    for every in (None, 2):
        found = steer(policy, starts, mixture_distance, rng(1), strength=10.0, every=every)
        reward, _ = outcome(mixture_distance(found.traj)["mixture-distance"], found.traj)
        worth[every] = float(reward.reshape(100, 4).max(1).values.mean())
    assert worth[2] > worth[None] + 0.5  # of a mean distance of 1.1


def test_a_promise_can_be_given_by_the_caller():
    policy, task, reward = table()
    asked = []

    def value(traj, at):
        asked.append(at.tolist())
        return torch.zeros(len(traj))

    steer(policy, [Start("tree-0", task.starts(1, rng())[0].fields)], reward, rng(), particles=2, value=value)
    assert asked == [[1, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 0}, "at least 1"),
        ({"every": 0}, "at least 1"),
        ({"first": -1}, "at least 0"),
        ({"strength": math.inf}, "finite"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    policy, task, reward = table()
    with pytest.raises(ValueError, match=message):
        steer(policy, task.starts(1, rng()), reward, rng(), **options)
