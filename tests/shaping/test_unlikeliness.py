"""The unlikeliness reward: ranks within groups, what is left alone, what is refused."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.shaping.unlikeliness import unlikeliness
from payoff.trajectories import Channel, Trajectories, outcome, place_outcome

F64 = torch.float64


def group_of(*mean_logp: float, length: int = 2) -> Trajectories:
    n = len(mean_logp)
    return Trajectories(
        mask=torch.ones(n, length, dtype=torch.bool),
        length=torch.full((n,), length),
        group=torch.zeros(n, dtype=torch.int64),
        step=torch.zeros(n, length, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, length, dtype=torch.int64),
        logp={"old": torch.tensor(mean_logp, dtype=F64)[:, None].expand(n, length)},
        id=torch.arange(n),
    )


def paid(traj: Trajectories, *reward: float, valid=None) -> list[float]:
    known = torch.ones(len(traj), dtype=torch.bool) if valid is None else torch.tensor(valid)
    channel = place_outcome(torch.tensor(reward, dtype=F64), known, traj)
    return outcome(unlikeliness(channel, traj), traj)[0].tolist()


def test_the_least_likely_success_keeps_its_reward_and_each_likelier_one_loses_a_quarter_of_a_rank():
    # ranks 2, 0, 3, 1 of 4: factors 1 - k / 16
    assert paid(group_of(-2, -4, -1, -3), 1, 1, 0, 2) == pytest.approx([0.875, 1.0, 0.0, 2 * 0.9375])


def test_equally_likely_rollouts_are_paid_alike_and_the_sum_is_that_of_distinct_ranks():
    # ranks 0, 2, 2, 2: mean of 1, 2, 3
    found = paid(group_of(-3, -1, -1, -1), 1, 1, 1, 1)
    assert found == pytest.approx([1, 0.875, 0.875, 0.875])
    assert sum(found) == pytest.approx(4 - 0.25 * 3 / 2)


def test_a_long_answer_is_as_likely_as_its_mean_action():
    traj = four_answers()  # lengths 3, 2 and 3, 1
    old = torch.tensor([[-1.0, -1.0, -1.0], [-1.4, -1.4, torch.nan], [-2.0, -2.0, -2.0], [-1.0, torch.nan, torch.nan]])
    traj = traj.replace(logp={"old": old})
    found = outcome(unlikeliness(place_outcome(torch.ones(4), torch.ones(4, dtype=torch.bool), traj), traj), traj)[0]
    # by the sum the first of each group would be the less likely; by the mean the second of the first group is
    assert found.tolist() == [0.875, 1.0, 1.0, 0.875]


def test_only_rollouts_with_a_verdict_are_ranked():
    assert paid(group_of(-1, -2, -3), 1, 1, 1, valid=(True, False, True)) == pytest.approx([0.875, 0.0, 1.0])


def test_one_alone_keeps_its_reward_and_so_does_one_that_never_acted():
    assert paid(group_of(-1), 1) == [1.0]
    idle = group_of(-1, -2).replace(mask=torch.tensor([[True, True], [False, False]]))
    assert paid(idle, 1, 1) == [1.0, 1.0]


def test_ranks_see_only_the_order():
    assert paid(group_of(-1, -5, -2), 1, 1, 1) == paid(group_of(-0.1, -0.5, -0.2), 1, 1, 1)


def test_order_of_rows_does_not_matter():
    traj, reward = group_of(-2, -4, -4, -3), torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)
    rows = torch.tensor([2, 0, 3, 1])
    shuffled = paid(traj.select(rows), *reward[rows].tolist())
    assert shuffled == pytest.approx([paid(traj, *reward.tolist())[i] for i in rows.tolist()])


def test_what_makes_no_sense_is_refused():
    traj = group_of(-1, -2)
    with pytest.raises(ValueError, match="trajectory 1 has -1"):
        paid(traj, 1, -1)
    channel = Channel(torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="strength must lie in"):
        unlikeliness(channel, traj, strength=1.5)
    with pytest.raises(ValueError, match="needs traj"):
        unlikeliness(channel, Trajectories(traj.mask, traj.length, traj.group, traj.step, traj.stop, traj.actions))
