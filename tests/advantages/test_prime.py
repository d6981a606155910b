"""PRIME's scaling and per-token leave-one-out: the card's golden numbers and the identities behind them."""

import pytest
import torch

from payoff.advantages.prime import token_leave_one_out, unit_return
from payoff.credit.returns import return_to_go
from payoff.trajectories import Channel, Trajectories


def tokens(rows: list[list[float]], group: list[int]):
    length = torch.tensor([len(row) for row in rows])
    t = int(length.max())
    exists = torch.arange(t) < length[:, None]
    value = torch.full((len(rows), t), float("nan"))
    for i, row in enumerate(rows):
        value[i, : len(row)] = torch.tensor(row)
    traj = Trajectories(
        mask=exists,
        length=length,
        group=torch.tensor(group),
        step=torch.where(exists, 0, -1).int(),
        stop=torch.zeros(len(rows), dtype=torch.int64),
        actions=torch.zeros(len(rows), t, dtype=torch.int64),
    )
    return Channel(value, torch.ones(len(rows), 1, dtype=torch.bool)), traj


def test_the_golden_example():
    result = token_leave_one_out(*tokens([[1.0, 3.0], [0.0, 0.0, 3.0]], [0, 0]))
    assert result.value.tolist() == [[-1.0, 3.0, 0.0], [-3.0, -3.0, 3.0]]


def test_its_mean_over_a_rollout_is_the_rollouts_mean_minus_that_of_the_others():
    rng = torch.Generator().manual_seed(0)
    rows = [torch.randn(k, generator=rng).tolist() for k in (3, 1, 5, 2, 4)]
    channel, traj = tokens(rows, [0, 1, 0, 1, 0])
    result = token_leave_one_out(channel, traj).value
    means = [sum(row) / len(row) for row in rows]
    for i, row in enumerate(rows):
        others = [means[j] for j in range(5) if j != i and traj.group[j] == traj.group[i]]
        assert result[i, : len(row)].mean().item() == pytest.approx(means[i] - sum(others) / len(others), abs=1e-6)


def test_equal_tokens_give_exactly_zero_and_a_rollout_alone_too():
    channel, traj = tokens([[0.1] * 3, [0.1] * 7, [0.1], [5.0, 2.0]], [0, 0, 0, 1])
    assert token_leave_one_out(channel, traj).value.abs().max() == 0


def test_an_unknown_token_is_left_out_of_its_rollouts_mean():
    channel, traj = tokens([[1.0, 3.0, 50.0], [0.0, 0.0, 3.0]], [0, 0])
    valid = torch.ones(2, 3, dtype=torch.bool)
    valid[0, 2] = False
    assert token_leave_one_out(Channel(channel.value, valid), traj).value.tolist() == [[-1.0, 3.0, 0.0], [-3.0, -3.0, 3.0]]


def test_the_largest_return_becomes_one_and_a_factor_on_all_rewards_cancels():
    channel, traj = tokens([[1.0, -2.0, 5.0], [-4.0, -4.0]], [0, 0])  # returns 4, 3, 5 and -8, -4
    scaled = unit_return(channel, traj, eps=0.0)
    assert return_to_go(scaled, traj).value.abs().max() == 1
    assert scaled.value.tolist() == [[0.125, -0.25, 0.625], [-0.5, -0.5, 0.0]]
    ten = unit_return(Channel(channel.value * 10, channel.valid), traj, eps=0.0)
    torch.testing.assert_close(ten.value, scaled.value)


@pytest.mark.parametrize(("own", "largest"), [([1, 1, 1], 4.0), ([1, 0, 0], 1.0), ([0, 1, 0], 4.0), ([0, 0, 1], 1.0)])
def test_a_return_counts_where_the_policy_acted_and_payments_wherever_they_come(own, largest):
    channel, traj = tokens([[5.0, -5.0, 1.0], [0.5]], [0, 0])  # returns 1, -4, 1
    traj = traj.replace(mask=torch.tensor([own, [1, 0, 0]]).bool())
    for value in (channel.value, channel.value.clone().requires_grad_()):
        scaled = unit_return(Channel(value, channel.valid), traj, eps=0.0).value
        assert scaled[0].tolist() == [5 / largest, -5 / largest, 1 / largest]


def test_a_batch_without_reward_stays_zero():
    channel, traj = tokens([[0.0, 0.0], [0.0]], [0, 0])
    for eps in (0.0, 1e-6):
        assert unit_return(channel, traj, eps=eps).value.abs().max() == 0


def test_the_largest_return_may_lie_inside_a_rollout_and_is_each_batchs_own():
    channel, traj = tokens([[1.0, -9.0, 3.0], [4.0, -4.0, 4.0], [2.0, -3.0, 2.0]], [0, 0, 1])
    traj = traj.replace(extras={"batch": torch.tensor([0, 0, 1])})  # returns -5, -6, 3 and 4, 0, 4, and 1, -1, 2
    largest = torch.tensor([[6.0], [6.0], [2.0]])
    torch.testing.assert_close(unit_return(channel, traj, eps=0.0).value, channel.value / largest)
    traj.mask[0, 1] = False  # another wrote where it is -6
    largest = torch.tensor([[5.0], [5.0], [2.0]])
    torch.testing.assert_close(unit_return(channel, traj, eps=0.0).value, channel.value / largest)
