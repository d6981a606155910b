import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.examples import four_answers
from payoff.shaping.length import length_penalty, soft_overlong
from payoff.trajectories import Channel, Trajectories, outcome, place_outcome


def of_lengths(lengths: list[int]) -> Trajectories:
    length = torch.tensor(lengths)
    mask = torch.arange(max(lengths)) < length[:, None]
    n = len(lengths)
    return Trajectories(
        mask=mask,
        length=length,
        group=torch.zeros(n, dtype=torch.int64),
        step=torch.where(mask, 0, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(mask.shape),
    )


def nothing(traj: Trajectories) -> Channel:
    return place_outcome(torch.zeros(len(traj)), torch.ones(len(traj), dtype=torch.bool), traj)


def test_soft_overlong_by_hand():
    # limit 10, margin 4: free up to 6, then a quarter more for every action, all beyond 10
    traj = of_lengths([5, 6, 7, 9, 10, 11])
    assert outcome(soft_overlong(nothing(traj), traj, limit=10, margin=4), traj)[0].tolist() == [0, 0, -0.25, -0.75, -1, -1]
    assert outcome(soft_overlong(nothing(traj), traj, limit=10, margin=4, penalty=2.0), traj)[0].tolist()[2] == -0.5


def test_soft_overlong_without_margin_is_a_step():
    traj = of_lengths([9, 10, 11])
    assert outcome(soft_overlong(nothing(traj), traj, limit=10, margin=0), traj)[0].tolist() == [0, 0, -1]


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 12), st.integers(0, 12))
def test_soft_overlong_is_that_of_trl(lengths, margin, more):
    from trl.rewards import get_soft_overlong_punishment

    theirs = get_soft_overlong_punishment(margin + more, margin)(completion_ids=[[0] * n for n in lengths])
    traj = of_lengths(lengths)
    ours = outcome(soft_overlong(nothing(traj), traj, limit=margin + more, margin=margin), traj)[0]
    assert ours.tolist() == pytest.approx(theirs)


def test_length_penalty_by_hand():
    traj = of_lengths([1, 300, 301, 400])
    assert outcome(length_penalty(nothing(traj), traj), traj)[0].tolist() == pytest.approx([0, 0, -0.01, -1])


@pytest.mark.parametrize(
    "charge", [lambda c, t: length_penalty(c, t, rate=1.0, free=1), lambda c, t: soft_overlong(c, t, limit=3, margin=3)]
)
def test_a_charge_is_added_at_the_end_to_what_is_paid_there_and_nothing_else_changes(charge):
    traj = four_answers()
    reward = Channel(torch.arange(12.0).reshape(4, 3), torch.ones(4, 1, dtype=torch.bool))
    difference = charge(reward, traj).value - torch.where(traj.exists, reward.value, 0)
    rows, columns = difference.nonzero(as_tuple=True)
    assert (columns == traj.length[rows] - 1).all()
    assert (difference <= 0).all()
    assert difference[0, 2] < difference[1, 1] <= 0  # three actions cost more than two


def test_only_what_the_policy_wrote_is_charged_but_the_beginning_of_a_branch_too():
    traj = of_lengths([4, 4])
    traj = traj.replace(mask=torch.tensor([[True, False, False, True], [True, True, True, True]]))
    branch = traj.replace(parent=torch.tensor([-1, 7]), fork=torch.tensor([0, 3]))
    for each in (traj, branch):
        assert outcome(length_penalty(nothing(each), each, rate=1.0, free=0), each)[0].tolist() == [-2, -4]


def test_what_was_unknown_stays_unknown():
    traj = of_lengths([4, 4])
    reward = place_outcome(torch.ones(2), torch.tensor([True, False]), traj, {7: "the judge hung"})
    result = length_penalty(reward, traj, free=0)
    assert outcome(result, traj)[1].tolist() == [True, False]
    assert result.value[1].tolist() == [0] * 4
    assert result.reasons == {7: "the judge hung"}


def test_mistakes_are_named():
    traj = of_lengths([1])
    with pytest.raises(ValueError, match="margin must lie in"):
        soft_overlong(nothing(traj), traj, limit=3, margin=4)
    with pytest.raises(ValueError, match="free must be at least 0"):
        length_penalty(nothing(traj), traj, free=-1)
