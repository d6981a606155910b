"""Advantages of denoising policies: golden numbers, shares of steps, and weights by noise."""

import dataclasses

import pytest
import torch

from payoff.advantages.flow_steps import dancegrpo, flow_grpo, noise_weighted
from payoff.advantages.group import grpo
from payoff.examples import four_answers
from payoff.policies.denoising import schedule
from payoff.trajectories import Channel, Trajectories


def column(*numbers, valid=None):
    value = torch.tensor(numbers)[:, None]
    return Channel(value, torch.ones_like(value, dtype=torch.bool) if valid is None else torch.tensor(valid)[:, None])


def denoised(n=6, t=10, groups=2):
    return Trajectories(
        mask=torch.ones(n, t, dtype=torch.bool),
        length=torch.full((n,), t),
        group=torch.arange(n) % groups,
        step=torch.arange(t).repeat(n, 1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, 2),
    )


def test_flow_grpo_divides_by_the_spread_of_the_batch_and_bounds():
    # rewards 1, 0 | 3, 3: batch mean 7/4, variance ((3/4)^2 + (7/4)^2 + 2 (5/4)^2) / 4 = 27/16
    spread = (27 / 16) ** 0.5 + 1e-4
    value = flow_grpo(column(1.0, 0.0, 3.0, 3.0), four_answers()).value[:, 0]
    torch.testing.assert_close(value, torch.tensor([0.5 / spread, -0.5 / spread, 0.0, 0.0]))
    traj = denoised(60, 1, groups=1)
    assert flow_grpo(column(*[0.0] * 59, 1.0), traj).value.max() == 5  # (59/60) / sqrt(59/3600) = 7.7
    by_group = flow_grpo(column(1.0, 0.0, 3.0, 3.0), four_answers(), scale_over="group").value[:, 0]
    torch.testing.assert_close(by_group, torch.tensor([1.0, -1.0, 0.0, 0.0]), atol=3e-4, rtol=0)


def test_dancegrpo_on_all_steps_is_group_normalisation_with_the_unbiased_spread():
    channel = column(1.0, 0.0, 0.5, 2.0)
    ours, theirs = dancegrpo(channel, four_answers(), fraction=1.0), grpo(channel, four_answers(), convention="openrlhf")
    torch.testing.assert_close(ours.value, theirs.value)
    assert ours.value.shape == (4, 1)


def test_dancegrpo_trains_the_share_of_each_rollouts_own_steps():
    traj = denoised(200, 15, groups=2).replace(id=torch.arange(200))
    traj = dataclasses.replace(traj, mask=traj.mask & (torch.arange(15) < 14))  # a clean last step
    found = dancegrpo(column(*torch.randn(200).tolist()), traj, fraction=0.6)
    assert (found.valid.sum(1) == 8).all()  # int(0.6 * 14)
    assert not found.valid[:, 14].any()
    # evenly over the 14 steps: each is trained in 200 * 8 / 14 = 114 rollouts, with standard deviation 7
    assert (found.valid[:, :14].sum(0) - 114).abs().max() < 30
    assert len(found.valid.unique(dim=0)) > 150
    assert dancegrpo(column(*[1.0, 2.0] * 100), traj, fraction=0.01).valid.sum(1).tolist() == [1] * 200


def test_the_share_belongs_to_the_trajectory_whatever_its_row_and_the_channel():
    traj = denoised()
    order = torch.tensor([4, 1, 0, 5, 3, 2])
    channel = column(*torch.randn(6).tolist())
    first = dancegrpo(channel, traj)
    moved = dancegrpo(Channel(channel.value[order], channel.valid[order]), traj.select(order))
    assert torch.equal(moved.valid, first.valid[order])
    torch.testing.assert_close(moved.value, first.value[order])
    assert torch.equal(dancegrpo(column(*torch.randn(6).tolist()), traj).valid, first.valid)


def test_every_set_of_actions_of_one_size_is_as_likely_as_another():
    traj = denoised(14_000, 7).replace(id=torch.arange(14_000))
    drawn = dancegrpo(column(*[0.0] * 14_000), traj, fraction=3 / 7).valid
    times = torch.bincount(drawn.long() @ 2 ** torch.arange(7))
    times = times[times > 0]
    assert len(times) == 35  # sets of 3 of 7, 400 times each
    assert ((times - 400) ** 2 / 400).sum() < 34 + 4 * 68**0.5  # chi squared: mean 34, variance 68


def test_of_many_actions_each_and_each_pair_is_drawn_as_often_as_it_should_be():
    n, own = 6_000, 45
    traj = denoised(n, own).replace(id=torch.arange(n) * 1_000_003)
    drawn = dancegrpo(column(*[0.0] * n), traj).valid.double()  # 27 of 45
    pairs = drawn.T @ drawn / n
    once, twice = 27 / 45, 27 / 45 * 26 / 44
    for found, expected in ((pairs.diagonal(), once), (pairs[*torch.triu_indices(own, own, 1)], twice)):
        off = (found - expected) / (expected * (1 - expected) / n) ** 0.5
        assert 0.7 < off.std() < 1.3
        assert off.abs().max() < 5


def test_the_share_is_of_a_rollouts_actions_by_number_whatever_lies_between_and_behind_them():
    dense = denoised(30, 9)
    mask = torch.zeros(30, 20, dtype=torch.bool)
    mask[:, 1:18:2] = True
    spread = denoised(30, 20).replace(mask=mask, id=dense.id)
    channel = column(*torch.randn(30).tolist())
    found, wanted = dancegrpo(channel, spread).valid, dancegrpo(channel, dense).valid
    assert torch.equal(found[:, 1:18:2], wanted)
    assert int(found.sum()) == int(wanted.sum()) == 30 * 5


def test_a_reward_in_large_units_counts_no_more_when_each_is_normalised_first():
    traj = denoised(groups=1)
    small, large = torch.randn(6), torch.randn(6)
    both = [dancegrpo(column(*x.tolist()), traj, fraction=1.0).value for x in (small, 100 * large)]
    torch.testing.assert_close(both[0].square().mean(), both[1].square().mean())


def test_equal_rewards_are_exactly_zero_and_unknown_ones_take_no_part():
    traj = four_answers()
    for advantage in (flow_grpo, dancegrpo):
        assert not advantage(column(0.97, 0.97, 0.3, 0.3), traj).value.any()
        found = advantage(column(1.0, 0.0, 5.0, 2.0, valid=[True, True, False, True]), traj)
        assert not found.valid[2].any()
        assert not found.value[2:].any()


def test_weights_by_noise_have_mean_one_over_the_steps_that_have_noise():
    std = schedule(8, level=0.7, shift=3.0, last_clean=True).std.float()
    traj = denoised(3, 8).replace(extras={"std": std.repeat(3, 1)})
    weight = noise_weighted(column(1.0, 1.0, 2.0), traj).value
    torch.testing.assert_close(weight.sum(1), torch.tensor([7.0, 7.0, 14.0]))
    assert not weight[:, 7].any()
    torch.testing.assert_close(weight[0, :7] / weight[0, 0], std[:7] / std[0])


def test_constant_noise_is_weighed_by_the_root_of_the_time_a_step_takes():
    table = schedule(6, noise="constant", shift=3.0)
    root = (table.times[:-1] - table.times[1:]).sqrt()
    traj = denoised(1, 6, groups=1).replace(extras={"std": table.std[None].float()})
    torch.testing.assert_close(noise_weighted(column(1.0), traj).value[0].double(), root / root.mean(), atol=1e-6, rtol=1e-5)


def test_with_growing_noise_the_weighted_gradient_of_a_step_goes_as_its_time():
    table = schedule(6, shift=2.0)
    span = table.times[:-1] - table.times[1:]
    # d logp / d v = gain xi / std; times the weight std / mean std it is gain xi / mean std, and gain = D (1 + a^2 / 2) after t = 1
    weighted = table.gain / table.std * (table.std / table.std.mean())
    torch.testing.assert_close(weighted[1:] / weighted[1], span[1:] / span[1])


def test_nothing_beyond_the_end_is_read():
    traj = four_answers().replace(extras={"std": torch.tensor([[3.0, 2.0, 1.0]]).repeat(4, 1)})
    dirty = traj.replace(extras={"std": torch.where(traj.exists, traj.extras["std"], torch.nan)})
    dense = Channel(torch.where(traj.exists, 1.0, torch.nan), torch.ones(4, 3, dtype=torch.bool))
    clean = noise_weighted(Channel(torch.ones(4, 3), dense.valid), traj).value
    assert torch.equal(noise_weighted(dense, dirty).value, clean)


def test_a_trajectory_without_noise_keeps_its_weight():
    traj = four_answers().replace(extras={"std": torch.zeros(4, 3)})
    assert noise_weighted(column(1.0, 2.0, 3.0, 4.0), traj).value[1].tolist() == [2.0, 2.0, 0.0]


def test_options_out_of_range_are_refused():
    for fraction in (0.0, 1.1):
        with pytest.raises(ValueError, match="fraction must lie"):
            dancegrpo(column(1.0, 0.0, 0.0, 0.0), four_answers(), fraction=fraction)
    with pytest.raises(ValueError, match="bound must be > 0"):
        flow_grpo(column(1.0, 0.0, 0.0, 0.0), four_answers(), bound=0.0)
    with pytest.raises(ValueError, match=r"needs traj\.extras"):
        noise_weighted(column(1.0, 0.0, 0.0, 0.0), four_answers())
