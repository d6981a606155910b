"""Gains telescope, useless turns are paid nothing, and what is climbed is the outcome and the belief before the last turn."""

import pytest
import torch

from payoff.credit.returns import return_to_go
from payoff.enumeration import every_sequence, paid
from payoff.exact import compare, credit_gradient, exact_gradient
from payoff.examples import four_answers
from payoff.pipeline import weighted_sum
from payoff.policies.tabular import Tabular
from payoff.signals.information_gain import information_gain
from payoff.trajectories import Channel, outcome

F64 = torch.float64
POLICY = Tabular(3, 3, stop=2, spread=1.0, seed=1)
TREE = POLICY.tree
LEAVES = every_sequence(POLICY)


def with_beliefs(belief: torch.Tensor, **fields):
    return four_answers().replace(extras={"reference_logp": belief.log()}, **fields)


def test_gains_add_up_to_the_belief_before_the_last_turn_less_the_first():
    belief = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    total, valid = outcome(information_gain(with_beliefs(belief))["gain"], four_answers())
    before_last = belief.gather(1, (four_answers().length - 1)[:, None])[:, 0]
    torch.testing.assert_close(total, before_last - belief[:, 0])
    assert valid.all()


def test_only_states_between_turns_are_read():
    # turns of rows: [0 0 1], [0 0], [0 1 1], [0]; states strictly inside a turn and beyond the end hold NaN
    step = torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]]).int()
    nan = torch.nan
    belief = torch.tensor([[0.25, nan, 0.5, nan], [0.25, nan, nan, nan], [0.5, 0.25, nan, nan], [0.5, nan, nan, nan]])
    found = information_gain(with_beliefs(belief, step=step))["gain"]
    assert found.value.tolist() == [[0, 0.25, 0], [0, 0, 0], [-0.25, 0, 0], [0, 0, 0]]
    assert found.valid.all()


def test_a_belief_is_the_geometric_mean_over_the_tokens_that_there_are():
    logp = torch.tensor([0.5, 0.5, 0.125, 0.5]).log()[None, :, None].repeat(4, 1, 3)
    logp[:, 1, 1] = torch.tensor(0.125).log()  # (1/2)^(1/2) (1/8)^(1/2) = 1/4 at the state after the first action
    logp[:, :, 2] = torch.nan
    found = information_gain(four_answers().replace(extras={"reference_logp": logp}))["gain"]
    torch.testing.assert_close(found.value[0], torch.tensor([-0.25, -0.125, 0.0]))


def test_a_missing_belief_costs_the_turns_on_both_sides_and_an_impossible_reference_is_a_belief_of_0():
    belief = torch.tensor([[0.5, torch.nan, 0.5, 0.5], [0.5, 0.0, 0.5, 0.5], [0.5, 0.0, 0.5, 0.5], [torch.nan] * 4])
    found = information_gain(with_beliefs(belief))["gain"]
    assert found.valid.expand(4, 3)[0].tolist() == [False, False, True]
    assert found.value[1:3].tolist() == [[-0.5, 0, 0], [-0.5, 0.5, 0]]
    assert found.valid.expand(4, 3)[3].all()  # one turn, which answers: no belief is asked for


def test_with_bayes_beliefs_a_question_gains_its_chi_squared_and_a_useless_one_nothing():
    # 3 items with prior q; noisy yes/no answers with P(yes | item); two turns: one question, then the answer.
    q, yes = torch.tensor([0.2, 0.3, 0.5], dtype=F64), torch.tensor([0.9, 0.4, 0.1], dtype=F64)
    for said, useless in ((yes, False), (torch.full_like(yes, 0.7), True)):
        like = torch.stack([said, 1 - said])  # [observation, item]
        posterior = like * q / (like @ q)[:, None]
        for truth in range(3):
            belief = torch.stack([torch.stack([q[truth], posterior[o, truth], posterior[o, truth]]) for o in (0, 1)])
            traj = four_answers().select(torch.tensor([1, 1])).replace(extras={"reference_logp": belief.log()})
            gain = information_gain(traj)["gain"].value[:, 0]
            chi2 = (like[:, truth] ** 2 / (like @ q)).sum() - 1
            torch.testing.assert_close(like[:, truth] @ gain, q[truth] * chi2)
            assert (float(chi2) > 1e-3) != useless
        # whatever is true, the belief in one fixed item is a martingale under the predictive distribution
        torch.testing.assert_close((like @ q) @ posterior, q)


def test_what_gain_and_outcome_climb_is_the_outcome_and_the_belief_before_the_last_turn():
    rng = torch.Generator().manual_seed(4)
    belief = torch.rand(TREE.prefix_count + len(TREE), generator=rng, dtype=F64)
    state, alive = TREE.states(LEAVES.actions, LEAVES.length)
    at = torch.where(alive, belief[state.clamp(max=TREE.prefix_count - 1)], torch.nan)  # a final state has no belief: never read
    traj = LEAVES.replace(extras={"reference_logp": at.log()})
    right = torch.rand(len(TREE), generator=rng, dtype=F64).round()
    rewards = {"gain": information_gain(traj)["gain"], "right": paid({"x": right})(traj)["x"]}
    both = weighted_sum(rewards, {"gain": 1.0, "right": 1.0})
    climbed = credit_gradient(POLICY, return_to_go(both, traj))
    before_last = at.gather(1, (LEAVES.length - 1)[:, None])[:, 0]
    torch.testing.assert_close(climbed, exact_gradient(POLICY, right + before_last), rtol=0, atol=1e-9)
    assert compare(climbed, exact_gradient(POLICY, right)).residual > 0.1


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({}, r"needs extras\['reference_logp'\] of shape \[N, T\+1\] = \[4, 4\] or \[N, T\+1, A\], found none"),
        ({"reference_logp": torch.zeros(4, 3)}, r"found shape \[4, 3\]"),
        ({"reference_logp": torch.ones(4, 4)}, "log-probabilities must be at most 0, got 1.0"),
    ],
)
def test_beliefs_that_are_not_there_or_no_log_probabilities_are_refused(extras, message):
    with pytest.raises(ValueError, match=message):
        information_gain(four_answers().replace(extras=extras))


def test_the_channel_is_finite_where_known():
    found = information_gain(with_beliefs(torch.full((4, 4), torch.nan)))["gain"]
    assert isinstance(found, Channel)
    assert found.value.isfinite().all()
