"""AgentFlow's mean of means: what adds up, and what it does to the expected gradient where the number of turns is a choice."""

import pytest
import torch

from payoff.advantages.group import mean_baseline
from payoff.credit.returns import total
from payoff.exact import bias
from payoff.examples import four_answers
from payoff.losses.aggregation import sequence_mean
from payoff.losses.policy_gradient import policy_gradient
from payoff.losses.turn_aggregation import turn_mean
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel

F64 = torch.float64
STEPS = torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]]).int()


def test_rollouts_have_equal_shares_and_their_turns_too():
    traj = four_answers().replace(step=STEPS, mask=torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 1], [0, 0, 0]]).bool())
    weight = turn_mean(Channel(torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.bool)), traj)
    assert weight.sum(1).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert weight[0].tolist() == pytest.approx([1 / 12, 1 / 12, 1 / 6])
    assert weight[2].tolist() == pytest.approx([1 / 6, 0, 1 / 6])


def test_what_has_no_verdict_is_in_no_denominator_and_padding_is_not_read():
    valid = torch.tensor([[True, False, True], [False, False, True], [True, True, True], [True, False, False]])
    weight = turn_mean(Channel(torch.full((4, 3), torch.nan), valid), four_answers().replace(step=STEPS))
    assert weight[0].tolist() == pytest.approx([1 / 6, 0, 1 / 6])
    assert weight.sum().item() == pytest.approx(1)
    nothing = turn_mean(Channel(torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.bool)), four_answers())
    assert not nothing.any()


def test_with_one_turn_each_it_is_the_mean_of_means_over_rollouts():
    traj = four_answers().replace(step=torch.where(four_answers().exists, 0, -1).int())
    target = Channel(torch.zeros(4, 1), torch.tensor([[True], [False], [True], [True]]))
    torch.testing.assert_close(turn_mean(target, traj), sequence_mean(target, traj))


def test_the_expected_gradient_is_true_for_a_fixed_number_of_turns_and_not_where_turns_are_chosen():
    term = Term(weigh({"x": [total, mean_baseline]}), policy_gradient, turn_mean)
    fixed, table = Tabular(2, 2, spread=1.0, seed=1), torch.tensor([0.0, 1.0, 2.0, -1.0], dtype=F64)
    found = bias(fixed, [term], {"x": table}, table)
    assert (found.scale, found.residual) == pytest.approx((0.25, 0), abs=1e-9)  # half for the baseline of two, half for two turns
    free = Tabular(3, 3, stop=2, spread=1.0, seed=1)
    table = free.tree.length.to(F64)
    assert bias(free, [term], {"x": table}, table).residual > 0.05
