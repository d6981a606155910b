"""OREAL's token weights: running means, sides, refusals. Their effect on the gradient is in tests/exact/test_step_methods."""

import pytest
import torch

from payoff.advantages.token_importance import token_importance
from payoff.examples import four_answers
from payoff.trajectories import Channel

F64 = torch.float64


def scored(*scores: float):
    return four_answers().replace(extras={"token_scores": torch.tensor(scores, dtype=F64).repeat(4, 1)})


def advantage(*value: float, valid=(True,) * 4) -> Channel:
    return Channel(torch.tensor(value, dtype=F64)[:, None], torch.tensor(valid)[:, None])


def test_a_running_mean_and_not_a_sum_says_how_right_an_answer_looks():
    found = token_importance(advantage(1, 0, 0, 0), scored(1.0, 3.0, 2.0), threshold=0.0).value[0]
    assert found.tolist() == pytest.approx(torch.tensor([1.0, 2.0, 2.0], dtype=F64).sigmoid().tolist())


def test_right_and_wrong_weights_never_meet_at_one_half():
    traj = scored(1.0, -5.0, 9.0)
    up, down = (token_importance(advantage(x, 0, 0, 0), traj).value[0] for x in (1.0, -1.0))
    assert (up * down == 0).all()
    c = torch.tensor([1.0, -2.0, 5 / 3], dtype=F64).sigmoid()
    assert up.tolist() == pytest.approx((2 * c - 1).clamp(min=0).tolist())
    assert down.tolist() == pytest.approx([-x for x in (1 - 2 * c).clamp(min=0).tolist()])


def test_a_scorer_that_knows_nothing_gives_nothing():
    assert token_importance(advantage(1, -1, 1, -1), scored(0.0, 0.0, 0.0)).value.abs().max() == 0


def test_sides_split_the_advantage_and_leave_the_rest_unknown():
    traj = scored(1.0, -3.0, 1.0)
    both = token_importance(advantage(1, -1, 0, 1, valid=(True, True, True, False)), traj)
    halves = [
        token_importance(advantage(1, -1, 0, 1, valid=(True, True, True, False)), traj, side=side)
        for side in ("positive", "negative")
    ]
    torch.testing.assert_close(halves[0].value + halves[1].value, both.value)
    assert halves[0].valid.any(1).tolist() == [True, False, False, False]
    assert halves[1].valid.any(1).tolist() == [False, True, False, False]


def test_what_others_wrote_takes_no_part_in_the_mean():
    traj = scored(1.0, 100.0, 3.0).replace(mask=torch.tensor([[1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool())
    found = token_importance(advantage(1, 0, 0, 0), traj, threshold=0.0).value[0]
    assert found.tolist() == pytest.approx([*torch.tensor([1.0]).sigmoid().tolist(), 0.0, *torch.tensor([2.0]).sigmoid().tolist()])


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="needs extras"):
        token_importance(advantage(1, 0, 0, 0), four_answers())
    with pytest.raises(ValueError, match="threshold must lie in"):
        token_importance(advantage(1, 0, 0, 0), scored(0, 0, 0), threshold=1.0)
