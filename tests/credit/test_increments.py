"""Increments telescope to what they replace."""

import pytest
import torch

from payoff.credit.increments import forward_looking, log_step_scores
from payoff.examples import four_answers
from payoff.trajectories import Channel, StopReason, outcome, place_outcome, place_steps

ALL = torch.ones(4, dtype=torch.bool)


def test_a_finished_trajectory_is_paid_the_same_in_all():
    rng = torch.Generator().manual_seed(0)
    traj = four_answers().replace(extras={"log_reward": torch.randn(4, 4, generator=rng)})
    channel = place_outcome(torch.tensor([1.0, -2.0, 0.5, 3.0]), ALL, traj)
    paid = forward_looking(channel, traj)
    assert torch.allclose(outcome(paid, traj)[0], outcome(channel, traj)[0], atol=1e-6)
    assert (paid.value != channel.value).any()


def test_a_trajectory_cut_short_is_paid_what_its_last_state_is_worth():
    traj = four_answers().replace(
        stop=torch.full((4,), int(StopReason.truncated)), extras={"log_reward": torch.tensor([[9.0, 1.0, 4.0, 7.0]]).repeat(4, 1)}
    )
    nothing = Channel(torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.bool))
    assert outcome(forward_looking(nothing, traj), traj)[0].tolist() == [7.0, 4.0, 7.0, 1.0]


def test_padding_is_not_read_and_the_unknown_stays_unknown():
    traj = four_answers()
    score = torch.where(torch.arange(4) > traj.length[:, None], torch.nan, 1.0)
    channel = place_outcome(torch.ones(4), torch.tensor([True, False, True, True]), traj)
    paid = forward_looking(channel, traj.replace(extras={"log_reward": score}))
    assert paid.value.isfinite().all()
    assert torch.equal(paid.valid, channel.valid)


def test_scores_of_prefixes_are_needed():
    with pytest.raises(ValueError, match=r"needs extras\['log_reward'\] of shape \[N, T\+1\] = \[4, 4\], found none"):
        forward_looking(place_outcome(torch.ones(4), ALL, four_answers()), four_answers())
    traj = four_answers().replace(extras={"worth": torch.zeros(4, 3)})
    with pytest.raises(ValueError, match=r"found shape \[4, 3\]"):
        forward_looking(place_outcome(torch.ones(4), ALL, traj), traj, prefixes="worth")


def test_logs_of_step_scores_add_up_to_the_log_of_their_product():
    traj = four_answers().replace(step=torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 2], [0, -1, -1]]).int())
    scores = place_steps(torch.tensor([[0.5, 0.25, 0.0]] * 4), torch.ones(4, 3, dtype=torch.bool), traj)
    gains = log_step_scores(scores, traj, weight=2.0, floor=0.1)
    wanted = torch.tensor([0.125, 0.5, 0.125 * 0.1, 0.5]).log() * 2
    assert torch.allclose(outcome(gains, traj)[0], wanted, atol=1e-6)
    assert (gains.value != 0).tolist() == [[False, True, True], [False, True, False], [True, True, True], [True, False, False]]


def test_a_step_without_score_stays_without():
    traj = four_answers()
    valid = torch.tensor([[True, False, True]]).repeat(4, 1)
    gains = log_step_scores(place_steps(torch.full((4, 3), 0.5), valid, traj), traj)
    assert gains.valid[0].tolist() == [True, False, True]
    assert gains.value[0, 1] == 0


@pytest.mark.parametrize(
    ("score", "floor", "message"), [(1.5, 0.1, r"scores must lie in 0..1, got 1.5"), (0.5, 0.0, "floor must lie")]
)
def test_scores_and_floors_out_of_range_are_refused(score, floor, message):
    channel = Channel(torch.full((4, 1), score), torch.ones(4, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=message):
        log_step_scores(channel, four_answers(), floor=floor)
