"""Normalisation over the whole batch: worked numbers, moments, and what stays zero."""

import math

import pytest
import torch

from payoff.advantages.batch import (
    CONVENTIONS,
    batch_standardise,
    group_mean_batch_std,
    reinforce_plus_plus,
    reinforce_plus_plus_baseline,
    rms,
    whiten,
)
from payoff.examples import four_answers
from payoff.trajectories import Channel

EVERY = (batch_standardise, group_mean_batch_std, reinforce_plus_plus, reinforce_plus_plus_baseline, rms, whiten)


def column(*numbers: float, known=(True,) * 4) -> Channel:
    return Channel(torch.tensor(numbers)[:, None], torch.tensor(known)[:, None])


def over_actions(channel: Channel) -> torch.Tensor:
    mask = four_answers().mask
    return channel.value.expand(mask.shape)[mask].double()


@pytest.mark.parametrize("convention", [*CONVENTIONS])
def test_actions_have_mean_zero_and_variance_one_by_their_divisor(convention):
    result = over_actions(reinforce_plus_plus(column(0.3, 1.2, -0.4, 2.0), four_answers(), convention=convention))
    divisor = 8 if convention == "verl" else 9
    assert result.sum().item() == pytest.approx(0, abs=1e-5)
    assert result.square().sum().item() / divisor == pytest.approx(1, rel=1e-5)


def test_reinforce_plus_plus_by_hand():
    # lengths 3, 2, 3, 1: nine actions, sum 3 + 2 - 3 - 2 = 0, squares 3 + 2 + 3 + 4 = 12; variance 12/9
    result = reinforce_plus_plus(column(1.0, 1.0, -1.0, -2.0), four_answers()).value.squeeze(1).tolist()
    assert result == pytest.approx([math.sqrt(0.75), math.sqrt(0.75), -math.sqrt(0.75), -2 * math.sqrt(0.75)], rel=1e-6)


def test_conventions_differ_where_the_variance_is_small():
    tiny = column(1e-4, 1e-4, -1e-4, -2e-4)  # variance 4/3 e-8 with divisor 9, 3/2 e-8 with divisor 8
    first = lambda convention: reinforce_plus_plus(tiny, four_answers(), convention=convention).value[0, 0].item()
    assert first("openrlhf") == first("nemo-rl") == pytest.approx(1e-4 / math.sqrt(12 / 9 * 1e-8), rel=1e-5)
    assert first("verl") == pytest.approx(1e-4 / math.sqrt(1.5e-8 + 1e-8), rel=1e-5)
    smaller = column(1e-5, 1e-5, -1e-5, -2e-5)
    floor = reinforce_plus_plus(smaller, four_answers()).value[0, 0].item()
    assert floor == pytest.approx(1e-5 / 1e-4, rel=1e-5)  # the variance is taken as 1e-8


def test_the_group_baseline_comes_first_and_verl_keeps_a_group_of_one_raw():
    traj = four_answers().replace(group=torch.tensor([0, 0, 0, 1]))
    credit = column(1.0, 0.0, 2.0, 5.0)
    ours = reinforce_plus_plus_baseline(credit, traj).value.squeeze(1)
    centred = reinforce_plus_plus(column(0.0, -1.0, 1.0, 0.0), traj).value.squeeze(1)
    torch.testing.assert_close(ours, centred)
    raw = reinforce_plus_plus_baseline(credit, traj, convention="verl").value.squeeze(1)
    kept = reinforce_plus_plus(column(0.0, -1.0, 1.0, 5.0), traj, convention="verl").value.squeeze(1)
    torch.testing.assert_close(raw, kept)


def test_whitening_twice_changes_nothing_more():
    traj = four_answers()
    once = whiten(column(0.3, 1.2, -0.4, 2.0), traj)
    torch.testing.assert_close(whiten(once, traj).value, once.value, rtol=1e-5, atol=1e-6)


def test_batch_standardise_counts_rollouts_not_actions():
    # mean 0, sum of squares 4: std 1 with divisor n
    result = batch_standardise(column(1.0, 1.0, -1.0, -1.0), four_answers(), ddof=0, eps=0.0)
    assert result.value.squeeze(1).tolist() == [1.0, 1.0, -1.0, -1.0]
    assert over_actions(result).mean() != 0


def test_the_group_mean_is_divided_by_the_spread_of_the_rewards_of_the_batch():
    # rewards 1, 0, 4, 4: mean 9/4, squares 25 + 81 + 49 + 49 over 16 = 51/4, divisor 3
    result = group_mean_batch_std(column(1.0, 0.0, 4.0, 4.0), four_answers()).value.squeeze(1).tolist()
    std = math.sqrt(51 / 4 / 3)
    assert result == pytest.approx([0.5 / (std + 1e-4), -0.5 / (std + 1e-4), 0, 0], rel=1e-6)


def test_rms_keeps_signs_and_zeros_and_gives_the_actions_mean_square_one():
    result = rms(column(3.0, -3.0, 0.0, 3.0), four_answers())
    assert over_actions(result).square().mean().item() == pytest.approx(1, rel=1e-6)
    assert result.value[2].item() == 0
    assert rms(column(0.0, 0.0, 0.0, 0.0), four_answers()).value.abs().sum() == 0
    assert rms(column(-2.0, -2.0, -2.0, -2.0), four_answers()).value.squeeze(1).tolist() == [-1.0] * 4


def test_an_unknown_rollout_is_in_no_statistic_and_gets_nothing():
    known = (True, True, True, False)
    for method in EVERY:
        one, other = (method(column(1.0, 0.0, 4.0, x, known=known), four_answers()) for x in (9.0, float("nan")))
        assert torch.equal(one.value, other.value)
        assert one.value[3].item() == 0
        assert one.valid.squeeze(1).tolist() == list(known)


@pytest.mark.parametrize("method", [m for m in EVERY if m is not rms])
def test_a_batch_of_equal_numbers_gets_exactly_zero(method):
    for number in (0.97, 0.1, 1e-30, -7e5 / 3):
        assert method(column(*[number] * 4), four_answers()).value.abs().max() == 0
        dense = Channel(torch.full((4, 3), number), torch.ones(4, 3, dtype=torch.bool))
        assert method(dense, four_answers()).value.abs().max() == 0


@pytest.mark.parametrize("method", EVERY)
def test_nothing_acted_and_nothing_known_are_defined(method):
    idle = four_answers().replace(mask=torch.zeros(4, 3, dtype=torch.bool))
    assert method(column(1.0, 0.0, 4.0, 2.0), idle).value.isfinite().all()
    nothing = method(column(1.0, 0.0, 4.0, 2.0, known=(False,) * 4), four_answers())
    assert nothing.value.abs().sum() == 0
    assert not nothing.valid.any()


def test_dense_credit_is_normalised_by_its_own_actions_only():
    # own actions hold 1, -1 alternately in rows 0 and 1; padding NaN, tool text 1000
    traj = four_answers().select(torch.tensor([0, 1])).replace(mask=torch.tensor([[True, True, False], [True, True, False]]))
    credit = Channel(torch.tensor([[1.0, -1.0, 1000.0], [1.0, -1.0, float("nan")]]), torch.ones(2, 1, dtype=torch.bool))
    result = reinforce_plus_plus(credit, traj, convention="openrlhf").value
    assert result[traj.mask].tolist() == pytest.approx([1.0, -1.0, 1.0, -1.0])
    assert result[1, 2] == 0


def test_an_unknown_convention_is_named():
    with pytest.raises(ValueError, match="reinforce_plus_plus: unknown convention 'trl'; there are openrlhf, nemo-rl, verl"):
        reinforce_plus_plus(column(1.0, 0.0, 1.0, 0.0), four_answers(), convention="trl")
