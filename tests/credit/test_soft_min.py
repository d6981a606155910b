"""PURE's soft minimum: the published numbers, its limits, and what validity costs."""

import pytest
import torch

from payoff.credit.returns import return_to_go
from payoff.credit.soft_min import soft_min
from payoff.trajectories import Channel, Trajectories, per_step, place_steps


def steps_of(scores: list[list[float]], tokens: int = 2):
    """Each score is a step of `tokens` actions, paid at its end; rollouts may have different numbers of steps."""
    n, s = len(scores), max(len(row) for row in scores)
    length = torch.tensor([len(row) * tokens for row in scores])
    exists = torch.arange(s * tokens) < length[:, None]
    traj = Trajectories(
        mask=exists,
        length=length,
        group=torch.zeros(n, dtype=torch.int64),
        step=torch.where(exists, torch.arange(s * tokens) // tokens, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, s * tokens, dtype=torch.int64),
    )
    value = torch.tensor([row + [0.0] * (s - len(row)) for row in scores])
    return place_steps(value, torch.ones(n, s, dtype=torch.bool), traj), traj


def reweighed(scores: list[float], temperature: float) -> torch.Tensor:
    channel, traj = steps_of([scores])
    return per_step(soft_min(channel, traj, temperature=temperature), traj)[0][0]


def test_the_worked_example_of_the_paper_at_its_temperature():
    torch.testing.assert_close(reweighed([0.5, -0.2, 0.8], 0.1), torch.tensor([0.000456, -0.199809, 0.000036]), rtol=0, atol=5e-7)
    assert reweighed([0.5, -0.2, 0.8], 0.1).sum().item() == pytest.approx(-0.199317, abs=5e-7)


@pytest.mark.parametrize(("temperature", "sum_"), [(1e-3, -0.2), (1.0, 0.183750), (1e6, 0.366667), (float("inf"), 1.1 / 3)])
def test_the_sum_runs_from_the_minimum_to_the_mean(temperature, sum_):
    assert reweighed([0.5, -0.2, 0.8], temperature).sum().item() == pytest.approx(sum_, abs=2e-6)


def test_one_step_keeps_its_reward_and_equal_steps_share_it():
    assert reweighed([0.7], 0.1).tolist() == pytest.approx([0.7])
    assert reweighed([0.6, 0.6, 0.6], 0.1).tolist() == pytest.approx([0.2] * 3)


def test_steps_above_the_worst_gain_nothing_in_the_limit_but_raise_the_plain_sum():
    bare, padded = reweighed([0.5, -0.2], 0.01).sum(), reweighed([0.5, -0.2, 0.9, 0.9, 0.9], 0.01).sum()
    assert abs(padded - bare) < 1e-6


def test_a_step_paid_nothing_is_a_step_that_counts():
    # (0.5, 0) at T=1: weights 1/(1+e^.5), e^.5/(1+e^.5); sum = .5/(1+e^.5) = 0.188770
    assert reweighed([0.5, 0.0], 1.0).sum().item() == pytest.approx(0.188770, abs=1e-6)


def test_rollouts_of_different_lengths_do_not_see_each_others_steps():
    channel, traj = steps_of([[0.5, -0.2, 0.8], [0.7], [0.5, -0.2, 0.8]])
    value = soft_min(channel, traj).value
    assert torch.equal(value[0], value[2])
    torch.testing.assert_close(value[1], torch.tensor([0.0, 0.7, 0.0, 0.0, 0.0, 0.0]))


def test_permuting_steps_permutes_the_payments():
    order = torch.tensor([2, 0, 1])
    scores = torch.tensor([0.5, -0.2, 0.8])
    torch.testing.assert_close(reweighed(scores[order].tolist(), 0.1), reweighed(scores.tolist(), 0.1)[order])


def test_it_is_paid_where_the_reward_was_paid_in_proportion():
    channel, traj = steps_of([[0.0, 0.0]])
    split = Channel(torch.tensor([[0.25, 0.75, -0.5, 0.0]]), channel.valid)
    value = soft_min(split, traj, temperature=1.0).value
    weight = torch.tensor([1.0, -0.5]).neg().softmax(0)
    torch.testing.assert_close(value, torch.stack([0.25 * weight[0], 0.75 * weight[0], -0.5 * weight[1], 0 * weight[1]])[None])


def test_after_the_worst_step_the_return_is_about_nothing():
    channel, traj = steps_of([[0.9, -0.8, 0.9, 0.9]])
    credit = return_to_go(soft_min(channel, traj), traj).value[0]
    torch.testing.assert_close(credit[:4], torch.full((4,), -0.8), rtol=0, atol=1e-3)
    assert credit[4:].abs().max() < 1e-6


def test_an_unknown_step_makes_its_whole_trajectory_unknown_and_no_other():
    channel, traj = steps_of([[0.5, -0.2], [0.5, -0.2]])
    valid = torch.ones(2, 4, dtype=torch.bool)
    valid[0, 3] = False
    credit = soft_min(Channel(channel.value, valid, {0: "no verdict"}), traj)
    assert credit.valid.squeeze(1).tolist() == [False, True]
    assert credit.value[0].abs().sum() == 0
    assert torch.equal(credit.value[1], soft_min(channel, traj).value[1])
    assert credit.reasons == {0: "no verdict"}


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    channel, traj = steps_of([[0.5]])
    with pytest.raises(ValueError, match="soft_min: temperature must be > 0, got"):
        soft_min(channel, traj, temperature=temperature)
