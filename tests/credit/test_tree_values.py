"""PORTool: nodes are worth the mean of what is below them, siblings are compared once each, and what a tree of rollouts climbs."""

import functools
import itertools

import pytest
import torch

from payoff.advantages.group import grpo
from payoff.advantages.siblings import against_siblings
from payoff.credit.returns import total
from payoff.credit.tree_values import node_values
from payoff.enumeration import every_sequence, paid
from payoff.exact import compare, credit_gradient, exact_gradient
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, Trajectories, place_outcome

F64 = torch.float64


def binary_tree(reward: list[float], **fields) -> tuple[Channel, Trajectories]:
    """Four rollouts of two steps of two actions each: 1 leaves 0 after its first step, 3 leaves 2 so."""
    step = torch.tensor([[0, 0, 1, 1]]).repeat(4, 1).int()
    traj = Trajectories(
        mask=torch.ones(4, 4, dtype=torch.bool),
        length=torch.full((4,), 4),
        group=torch.zeros(4, dtype=torch.int64),
        step=step,
        stop=torch.zeros(4, dtype=torch.int64),
        actions=torch.zeros(4, 4, dtype=torch.int64),
        id=torch.tensor([10, 11, 12, 13]),
        parent=torch.tensor([-1, 10, -1, 12]),
        fork=torch.tensor([0, 2, 0, 2]),
    ).replace(**fields)
    return place_outcome(torch.tensor(reward, dtype=F64), torch.ones(4, dtype=torch.bool), traj), traj


def test_a_shared_step_has_one_number_the_mean_of_what_is_below():
    paid_, traj = binary_tree([1.0, 3.0, 0.0, 1.0])
    found = node_values(paid_, traj, discount=1.0).value
    assert found.tolist() == [[2, 2, 1, 1], [2, 2, 3, 3], [0.5, 0.5, 0, 0], [0.5, 0.5, 1, 1]]
    assert node_values(paid_, traj, discount=0.5).value[0].tolist() == [1, 1, 1, 1]
    assert node_values(paid_, traj, discount=1.0, of="best").value[:, 0].tolist() == [3, 3, 1, 1]


def test_an_unknown_outcome_takes_no_part():
    _, traj = binary_tree([0.0] * 4)
    channel = place_outcome(torch.tensor([1.0, 3.0, 0.0, 1.0]), torch.tensor([True, False, True, True]), traj)
    found = node_values(channel, traj, discount=1.0)
    assert found.value[:, 0].tolist() == [1, 0, 0.5, 0.5]
    assert found.valid[:, 0].tolist() == [True, False, True, True]
    compared = against_siblings(found, traj, scale="none", rollout=0.0, shared="node")
    assert compared.value[0].tolist() == [0.25, 0.25, 0, 0]  # 1 against 0.5; the only known way on from there
    assert not compared.valid[1].any()


def test_siblings_count_once_each_and_their_advantages_add_up_to_nothing():
    # row 1 leaves row 0 late, so two rollouts share node A = (0): values A 2, and 0.5 of row 2 and 8 of row 3: mean 3.5
    paid_, traj = binary_tree([1.0, 3.0, 0.5, 8.0], parent=torch.tensor([-1, 10, -1, -1]), fork=torch.tensor([0, 2, 0, 0]))
    credit = node_values(paid_, traj, discount=1.0)
    found = against_siblings(credit, traj, scale="none", rollout=0.0, shared="node").value
    assert found.tolist() == [[-1.5, -1.5, -1, -1], [-1.5, -1.5, 1, 1], [-3, -3, 0, 0], [4.5, 4.5, 0, 0]]
    weighed = against_siblings(credit, traj, scale="none", rollout=0.0).value
    assert weighed[:, 0].tolist() == [-3, -3, -3, 4.5]
    divided = against_siblings(credit, traj, rollout=0.0, shared="node", eps=0.0).value
    assert divided[:2, 2].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])


def test_equal_siblings_and_only_children_get_exactly_nothing():
    for reward in ([0.97] * 4, [0.1] * 4):
        paid_, traj = binary_tree(reward)
        assert not against_siblings(node_values(paid_, traj, discount=1.0), traj).value.any()


def test_rollouts_that_share_nothing_are_compared_at_their_first_step_as_grpo_does():
    paid_, traj = binary_tree([1.0, 3.0, 0.0, 1.0], parent=None, fork=None)
    credit = node_values(paid_, traj, discount=1.0)
    torch.testing.assert_close(credit.value, total(paid_, traj).value.expand(4, 4))
    found = against_siblings(credit, traj, rollout=0.0, eps=1e-6).value
    wanted = grpo(total(paid_, traj), traj, convention="verl").value[:, 0]
    torch.testing.assert_close(found[:, 0], wanted, rtol=0, atol=1e-6)
    assert not found[:, 2:].any()
    whole = against_siblings(credit, traj, fork=0.0, eps=1e-6).value
    torch.testing.assert_close(whole, wanted[:, None].expand(4, 4), rtol=0, atol=1e-6)


def test_with_every_leaf_of_a_uniform_policy_nodes_are_worth_their_q_values():
    policy = Tabular(3, 2, logits=torch.zeros(4, 3, dtype=F64))
    traj = policy.sequences()
    first = torch.arange(9) // 3 * 3  # the sequence that begins so and goes on with 0
    branch = torch.arange(9) != first
    traj = traj.replace(parent=torch.where(branch, traj.id[first], -1), fork=torch.where(branch, 1, 0))
    reward = torch.randn(9, generator=torch.Generator().manual_seed(0), dtype=F64)
    credit = node_values(paid({"x": reward})(traj)["x"], traj, discount=1.0)
    q = policy.q_values(reward).detach()
    torch.testing.assert_close(credit.value[:, 0], q[0].repeat_interleave(3))
    found = against_siblings(credit, traj, scale="none", rollout=0.0, shared="node").value
    torch.testing.assert_close(found[:, 0], (q[0] - q[0].mean()).repeat_interleave(3))
    torch.testing.assert_close(found[:, 1], (q[1:] - q[1:].mean(1, keepdim=True)).flatten())


def test_without_a_tree_the_undiscounted_credit_climbs_the_outcome_and_the_discounted_one_does_not():
    policy = Tabular(3, 3, stop=2, spread=1.0, seed=1)
    leaves = every_sequence(policy)
    reward = torch.randn(len(leaves), generator=torch.Generator().manual_seed(0), dtype=F64)
    channel = paid({"x": reward})(leaves)["x"]
    exact = exact_gradient(policy, reward)
    climbed = credit_gradient(policy, node_values(channel, leaves, discount=1.0))
    torch.testing.assert_close(climbed, exact, rtol=0, atol=1e-9)
    assert compare(credit_gradient(policy, node_values(channel, leaves, discount=0.5)), exact).residual > 0.05


def test_a_tree_with_two_ways_on_everywhere_climbs_half_the_gradient_if_shared_steps_count_for_all_who_share_them():
    # all 4 x 16 trees: two first actions, each continued twice
    policy = Tabular(2, 2, spread=1.0, seed=1)
    reward = torch.tensor([0.0, 1.0, 2.0, -1.0], dtype=F64)
    _, traj = binary_tree([0.0] * 4)
    step = torch.tensor([[0, 1]]).repeat(4, 1).int()
    two = {"mask": traj.mask[:, :2], "length": torch.full((4,), 2), "step": step, "fork": torch.tensor([0, 1, 0, 1])}
    p = policy.logits[0].softmax(1).detach()
    gradient = dict.fromkeys(("trajectory", "node"), 0.0)
    for first in itertools.product((0, 1), repeat=2):
        for second in itertools.product((0, 1), repeat=4):
            actions = torch.tensor([[first[i // 2], second[i]] for i in range(4)])
            drawn = traj.replace(actions=actions, **two)
            chance = p[0][list(first)].prod() * p[1 + actions[:, 0], actions[:, 1]].prod()
            leaf = actions @ torch.tensor([2, 1])
            credit = node_values(place_outcome(reward[leaf], torch.ones(4, dtype=torch.bool), drawn), drawn, discount=1.0)
            logp = policy.evaluate(drawn).logp
            for way in gradient:
                part = functools.partial(against_siblings, scale="none", rollout=0.0, shared=way)
                weight = torch.where(drawn.own, part(credit, drawn).value, 0) * chance / 4
                gradient[way] = (
                    gradient[way] + torch.autograd.grad((weight * logp).sum(), policy.logits, retain_graph=True)[0].flatten()
                )
    exact = exact_gradient(policy, reward)
    torch.testing.assert_close(gradient["trajectory"], exact / 2, rtol=0, atol=1e-9)
    assert compare(gradient["node"], exact).residual > 0.05


def test_the_discount_is_checked():
    paid_, traj = binary_tree([1.0] * 4)
    with pytest.raises(ValueError, match=r"discount must lie in 0..1, got 1.5"):
        node_values(paid_, traj, discount=1.5)
