"""One reward shared out by importance: nothing is lost, equal is equal, and the coldest gives all to one."""

import dataclasses

import pytest
import torch

from payoff.credit.redistribution import redistributed
from payoff.examples import four_answers
from payoff.trajectories import Channel, outcome

TRAJ = four_answers()
PAID = Channel(torch.tensor([[1.0, 2.0, 4.0], [0.0, -3.0, 9.0], [0.5, 0.5, 0.5], [-2.0, 9.0, 9.0]]), TRAJ.exists)


def scored(scores) -> object:
    hole = torch.where(TRAJ.exists, scores, torch.nan)
    return TRAJ.replace(extras={"importance": hole})


@pytest.mark.parametrize("temperature", [1e-30, 0.1, 1.0, 1e6])
def test_the_whole_reward_is_paid_and_only_where_steps_are(temperature):
    scores = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) * 50
    shared = redistributed(PAID, scored(scores), temperature=temperature)
    torch.testing.assert_close(outcome(shared, TRAJ)[0], outcome(PAID, TRAJ)[0])
    assert torch.isfinite(shared.value).all()
    assert (shared.value[~TRAJ.exists] == 0).all()
    if temperature == 1e-30:  # all on the greatest
        assert ((shared.value != 0).sum(1) == 1).all()
        assert torch.equal(shared.value[0].argmax(), scores[0].argmax())
    if temperature == 1e6:  # or evenly
        torch.testing.assert_close(shared.value, redistributed(PAID, TRAJ, importance=None).value, atol=1e-3, rtol=0)


def test_a_step_of_several_actions_has_one_share_and_what_was_not_acted_has_none():
    steps = torch.tensor([[0, 0, 1], [0, 1, -1], [0, 1, 2], [0, -1, -1]]).int()
    tool = TRAJ.mask.clone()
    tool[2, 1] = False
    traj = dataclasses.replace(scored(torch.tensor([[1.0, 2.0, 3.0]]).repeat(4, 1)), step=steps, mask=tool)
    shared = redistributed(PAID, traj).value
    assert shared[0].tolist() == pytest.approx([0.0, 3.5, 3.5])  # 1 + 2 against 3, at the ends of the two steps
    within = dataclasses.replace(traj, mask=TRAJ.mask & (torch.arange(3) != 1))  # the tool writes in the midst of the first step
    assert redistributed(PAID, within).value[0].tolist() == pytest.approx(
        [0.0, *(7 * torch.tensor([1.0, 3.0]).softmax(0)).tolist()]
    )
    share = float(torch.sigmoid(torch.tensor(2.0)))  # 3 against 1; the tool's score is not read
    assert shared[2].tolist() == pytest.approx([1.5 * (1 - share), 0.0, 1.5 * share])


def test_without_actions_nothing_moves_and_the_unknown_stays_unknown():
    idle = dataclasses.replace(scored(torch.zeros(4, 3)), mask=torch.zeros_like(TRAJ.mask))
    torch.testing.assert_close(redistributed(PAID, idle).value, torch.where(TRAJ.exists, PAID.value, 0))
    lost = Channel(PAID.value, TRAJ.exists & (torch.arange(4) != 1)[:, None])
    found = redistributed(lost, scored(torch.zeros(4, 3)))
    assert found.valid[:, 0].tolist() == [True, False, True, True]
    assert found.value[1].abs().max() == 0
    bad = torch.zeros(4, 3)
    bad[0, 0] = torch.inf
    assert not redistributed(PAID, scored(bad)).valid[0].any()


def test_what_is_lacking_is_named():
    with pytest.raises(ValueError, match="temperature must be > 0"):
        redistributed(PAID, TRAJ, importance=None, temperature=0.0)
    with pytest.raises(ValueError, match="importance"):
        redistributed(PAID, TRAJ)
