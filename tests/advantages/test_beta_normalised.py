"""BNPO: what the fit and the density give, what stays the same, and what is refused."""

import functools
import math

import pytest
import torch

from payoff.advantages.beta_normalised import beta_normalised
from payoff.advantages.group import grpo, mean_baseline
from payoff.examples import four_answers
from payoff.pipeline import weigh
from payoff.trajectories import Channel, Trajectories

F64 = torch.float64


def rollouts(*groups: int) -> Trajectories:
    n = sum(groups)
    return Trajectories(
        mask=torch.ones(n, 2, dtype=torch.bool),
        length=torch.full((n,), 2),
        group=torch.arange(len(groups)).repeat_interleave(torch.tensor(groups)),
        step=torch.zeros(n, 2, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, 2, dtype=torch.int64),
        id=torch.arange(n),
    )


def credit(*value: float, dtype=F64) -> Channel:
    return Channel(torch.tensor(value, dtype=dtype)[:, None], torch.ones(len(value), 1, dtype=torch.bool))


def test_golden_numbers_of_two_groups():
    # p = 1/4, 3/4: m = 1/2, v = 1/8, a + b = (1/4) / (1/8) - 1 = 1, a = b = 1/2, alpha = beta = 7/6
    found = beta_normalised(credit(1, 0, 0, 0, 1, 1, 1, 0), rollouts(4, 4)).value[:, 0]
    density = math.gamma(7 / 3) / math.gamma(7 / 6) ** 2 * (3 / 16) ** (1 / 6)
    assert found.tolist() == pytest.approx([x / density for x in (0.75, -0.25, -0.25, -0.25, 0.25, 0.25, 0.25, -0.75)])


def test_one_and_one_is_the_mean_baseline_and_three_halves_is_pi_eighths_of_grpo():
    rewards, traj = credit(1, 0, 0, 0, 1, 1, 0, 1), rollouts(4, 4)
    flat = beta_normalised(rewards, traj, alpha=1.0, beta=1.0)
    torch.testing.assert_close(flat.value, mean_baseline(rewards, traj).value, rtol=0, atol=1e-12)
    round_ = beta_normalised(rewards, traj, alpha=1.5, beta=1.5)
    torch.testing.assert_close(round_.value, math.pi / 8 * grpo(rewards, traj).value, rtol=0, atol=1e-12)


def test_an_affine_map_of_the_reward_changes_nothing_if_its_bounds_move_along():
    rewards, traj = torch.tensor([1, 0, 0.5, 0, 1, 1, 0, 0.25], dtype=F64), rollouts(4, 4)
    plain = beta_normalised(credit(*rewards.tolist()), traj)
    mapped = beta_normalised(credit(*(rewards * 7 - 3).tolist()), traj, low=-3.0, high=4.0)
    torch.testing.assert_close(mapped.value, plain.value, rtol=0, atol=1e-12)


def test_groups_of_equal_rewards_and_of_one_get_exactly_zero_and_the_latter_stay_out_of_the_fit():
    found = beta_normalised(credit(0.97, 0.97, 0.97, 1, 0, 0, 0, 1, dtype=torch.float32), rollouts(3, 4, 1)).value[:, 0]
    assert found[:3].tolist() == [0, 0, 0]
    assert found[7] == 0
    without = beta_normalised(credit(0.97, 0.97, 0.97, 1, 0, 0, 0, dtype=torch.float32), rollouts(3, 4)).value[:, 0]
    assert torch.equal(found[:7], without)


@pytest.mark.parametrize("rewards", [(1, 0, 0, 1, 1, 0, 0, 1), (1, 1, 1, 1, 1, 1, 1, 1)])
def test_equal_pass_rates_leave_the_fit_undefined_and_the_scale_one(rewards):
    found = beta_normalised(credit(*rewards), rollouts(4, 4))
    torch.testing.assert_close(found.value, mean_baseline(credit(*rewards), rollouts(4, 4)).value)


def test_pass_rates_that_differ_by_rounding_alone_are_the_same():
    rewards = (0.1, 0.2, 0.3, 0.0)
    assert (0.1 + 0.2) / 2 != (0.3 + 0.0) / 2
    found = beta_normalised(credit(*rewards), rollouts(2, 2))
    torch.testing.assert_close(found.value, mean_baseline(credit(*rewards), rollouts(2, 2)).value)


def test_one_group_has_scale_one():
    found = beta_normalised(credit(1, 0, 0, 0), rollouts(4)).value[:, 0]
    assert found.tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_pass_rates_far_apart_never_divide_by_less_than_one_millionth():
    rewards = [1.0] + [0.0] * 9 + [0.5] * 20 + [1.0] * 10
    found = beta_normalised(credit(*rewards), rollouts(10, 10, 10, 10), alpha=400.0, beta=400.0).value
    assert found.abs().max() == pytest.approx(0.9e6)


def test_every_batch_is_fitted_on_its_own_and_a_group_counts_once_whatever_its_size():
    rewards = credit(1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 0)
    traj = rollouts(4, 4, 2, 3)
    batched = traj.replace(extras={"batch": torch.tensor([0] * 8 + [1] * 5)})
    found = beta_normalised(rewards, batched).value
    torch.testing.assert_close(found[:8], beta_normalised(credit(1, 0, 0, 0, 1, 1, 1, 0), rollouts(4, 4)).value)
    torch.testing.assert_close(found[8:], beta_normalised(credit(1, 0, 1, 0, 0), rollouts(2, 3)).value)


def test_unknown_credit_takes_no_part():
    rewards = credit(1, 0, 0, 0, 1, 1, 1, 0, 1)
    valid = torch.tensor([True] * 8 + [False])[:, None]
    value = torch.where(valid, rewards.value, torch.nan)
    found = beta_normalised(Channel(value, valid), rollouts(4, 5))
    torch.testing.assert_close(found.value[:8], beta_normalised(credit(1, 0, 0, 0, 1, 1, 1, 0), rollouts(4, 4)).value)
    assert found.value[8] == 0


def test_exponents_minimise_the_mean_variance_of_an_advantage_when_pass_rates_are_beta():
    # E_{p ~ Beta(a, b)}[p (1 - p) / f(p)^2] = B(a + 3 - 2 alpha, b + 3 - 2 beta) B(alpha, beta)^2 / B(a, b)
    def log_b(x, y):
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    def variance(a, b, alpha, beta):
        return log_b(a + 3 - 2 * alpha, b + 3 - 2 * beta) + 2 * log_b(alpha, beta)

    for a, b in ((0.5, 0.5), (1.0, 3.0), (6.0, 2.0)):
        best = variance(a, b, 1 + a / 3, 1 + b / 3)
        for da in (-0.2, 0.0, 0.15):
            for db in (-0.2, 0.0, 0.15):
                assert variance(a, b, 1 + a / 3 + da, 1 + b / 3 + db) >= best - 1e-12


def test_several_rewards_each_have_their_own_fit_and_bounds_and_are_averaged():
    traj = rollouts(4, 4)
    rewards = {"right": credit(1, 0, 0, 0, 1, 1, 1, 0), "tidy": credit(3, 1, 3, 3, 1, 2, 1, 1)}
    bounds = {"right": {}, "tidy": {"low": 1.0, "high": 3.0}}
    paths = {name: [functools.partial(beta_normalised, **bounds[name])] for name in rewards}
    found = weigh(paths, mix=dict.fromkeys(paths, 0.5))(rewards, traj)
    # right: as in the first test; tidy in 0..1 is (1, 0, 1, 1) and (0, 1/2, 0, 0): p = 3/4, 1/8, m = 7/16, v = 25/128,
    # a + b = (63/256) / (50/256) - 1 = 13/50; a = 91/800, b = 117/800
    right = math.gamma(7 / 3) / math.gamma(7 / 6) ** 2 * (3 / 16) ** (1 / 6)
    x, y = 91 / 2400, 117 / 2400
    density = lambda p: math.gamma(2 + x + y) / (math.gamma(1 + x) * math.gamma(1 + y)) * p**x * (1 - p) ** y
    tidy = [d / density(3 / 4) for d in (1 / 4, -3 / 4, 1 / 4, 1 / 4)]
    tidy += [d / density(1 / 8) for d in (-1 / 8, 3 / 8, -1 / 8, -1 / 8)]
    plain = [d / right for d in (0.75, -0.25, -0.25, -0.25, 0.25, 0.25, 0.25, -0.75)]
    assert found.value[:, 0].tolist() == pytest.approx([(a + b) / 2 for a, b in zip(plain, tidy, strict=True)])


@pytest.mark.parametrize(
    ("options", "rewards", "message"),
    [
        ({"low": 1.0, "high": 1.0}, (1, 0, 1, 0), "low must be < high"),
        ({"alpha": 2.0}, (1, 0, 1, 0), "alpha and beta come together"),
        ({"alpha": 0.5, "beta": 2.0}, (1, 0, 1, 0), "at least 1"),
        ({}, (1, 2, 1, 0), "trajectory 1 has 2.0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, rewards, message):
    with pytest.raises(ValueError, match=message):
        beta_normalised(credit(*rewards), four_answers(), **options)
