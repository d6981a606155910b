"""IGPO's normaliser: all turns of a group at once; GRPO with one turn each, and biased where the number of turns is a choice."""

import functools

import torch

from payoff.advantages.group import grpo
from payoff.advantages.turn_payments import standardised_payments
from payoff.credit.returns import return_to_go, total
from payoff.exact import bias
from payoff.examples import four_answers
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel

F64 = torch.float64
ALL = torch.ones(4, 1, dtype=torch.bool)


def test_with_one_turn_each_it_is_grpo():
    traj = four_answers().replace(step=torch.where(four_answers().exists, 0, -1).int())
    paid = Channel(torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=F64), ALL)
    found = return_to_go(standardised_payments(paid, traj, eps=0.0), traj)
    wanted = grpo(total(paid, traj), traj).value.expand(4, 3)
    torch.testing.assert_close(torch.where(traj.exists, found.value, 0), torch.where(traj.exists, wanted, 0))


def test_every_turn_of_the_group_counts_once_and_tool_text_does_not():
    # group 0 pays (1, 3) and (8,), the last step of row 0 being tool text with 5: mean 4, std sqrt(26/3) of (1, 3, 8)
    traj = four_answers().replace(
        mask=torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool(),
        step=torch.tensor([[0, 1, 2], [0, 0, -1], [0, 1, 2], [0, -1, -1]]).int(),
    )
    paid = Channel(torch.tensor([[1.0, 3.0, 5.0], [2.0, 6.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.0, 0.0]], dtype=F64), ALL)
    found = standardised_payments(paid, traj, eps=0.0).value
    s = (26 / 3) ** 0.5
    torch.testing.assert_close(found[0], torch.tensor([-3 / s, -1 / s, 5.0], dtype=F64))
    torch.testing.assert_close(found[1], torch.tensor([0, 4 / s, 0.0], dtype=F64))
    assert (found[2:] == 0).all()


def test_an_unknown_turn_takes_no_part():
    valid = ALL.repeat(1, 3)
    valid[0, 1] = False
    paid = Channel(torch.tensor([[1.0, torch.nan, 3.0], [2.0, 2.0, 0.0]] * 2), valid)
    found = standardised_payments(paid, four_answers(), scale="none")
    assert found.value[0].tolist() == [-1, 0, 1]
    assert found.valid[0].tolist() == [True, False, True]


def gap(policy: Tabular, scale: str) -> float:
    table = torch.where(policy.tree.exists, 1.0 + torch.arange(policy.tree.horizon), 0).to(F64)
    path = [functools.partial(standardised_payments, scale=scale), return_to_go]
    term = Term(weigh({"x": path}), policy_gradient, sequence_sum)
    return bias(policy, [term], {"x": table + 0.3 * policy.tree.actions}, table + 0.3 * policy.tree.actions).residual


def test_undivided_it_points_the_right_way_for_one_turn_and_not_where_their_number_is_chosen():
    assert gap(Tabular(3, 1, spread=1.0, seed=1), "none") < 1e-9
    assert gap(Tabular(3, 3, stop=2, spread=1.0, seed=1), "none") > 0.05
