import torch

from payoff.examples import four_answers
from payoff.signals.length import response_length
from payoff.trajectories import outcome


def test_the_length_counts_what_the_policy_wrote_and_is_paid_at_the_end():
    traj = four_answers()
    traj = traj.replace(mask=traj.mask & torch.tensor([[True, False, True]]))
    channel = response_length(traj)["length"]
    assert channel.value.tolist() == [[0, 0, 2], [0, 1, 0], [0, 0, 2], [1, 0, 0]]
    assert outcome(channel, traj)[1].all()


def test_a_trajectory_without_an_action_has_length_zero():
    traj = four_answers().replace(mask=torch.zeros(4, 3, dtype=torch.bool))
    assert outcome(response_length(traj)["length"], traj)[0].tolist() == [0, 0, 0, 0]


def test_the_shared_beginning_of_a_branch_counts():
    traj = four_answers().replace(parent=torch.tensor([-1, -1, 0, -1]), fork=torch.tensor([0, 0, 2, 0]))
    assert outcome(response_length(traj)["length"], traj)[0].tolist() == [3, 2, 3, 1]
