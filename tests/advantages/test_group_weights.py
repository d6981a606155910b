"""Weights of whole groups: when ADORA learns from one, and by what GPG scales a batch."""

import functools
import inspect

import pytest
import torch

from payoff.advantages.group import dr_grpo, grpo
from payoff.advantages.group_weights import adora, gpg
from payoff.credit.returns import total
from payoff.exact import bias, expected_gradient
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, StopReason, Trajectories

POLICY = Tabular(3, 2, stop=2, spread=1.0, seed=1)
RIGHT = torch.tensor([1, 0, 0, 1, 0, 0, 1], dtype=torch.float64)
TWO = Tabular(2, 2, stop=1, starts=2, spread=1.0, seed=4)  # 3 sequences of each of two starts
RIGHT_OF_TWO = torch.tensor([1, 0, 0, 1, 1, 0], dtype=torch.float64)


def rollouts(*groups: list[tuple[float, int]], truncated: tuple[int, ...] = ()) -> tuple[Channel, Trajectories]:
    """Groups of (credit, length)."""
    flat = [pair for group in groups for pair in group]
    length = torch.tensor([n for _, n in flat])
    exists = torch.arange(int(length.max())) < length[:, None]
    traj = Trajectories(
        mask=exists,
        length=length,
        group=torch.tensor([k for k, group in enumerate(groups) for _ in group]),
        step=torch.where(exists, 0, -1).int(),
        stop=torch.tensor([int(StopReason.truncated) if i in truncated else 0 for i in range(len(flat))]),
        actions=torch.zeros(len(flat), exists.shape[1], dtype=torch.int64),
    )
    return Channel(torch.tensor([r for r, _ in flat])[:, None], torch.ones(len(flat), 1, dtype=torch.bool)), traj


def weight(rule: str, *group: tuple[float, int], **options) -> float:
    """The factor on GRPO, read where the advantage is not 0."""
    channel, traj = rollouts(list(group), **options)
    ours, plain = adora(channel, traj, rule=rule).value, grpo(channel, traj, convention="verl").value
    row = plain.abs().argmax()
    return round(float(ours[row] / plain[row]), 5)


def test_a_group_is_learned_from_where_the_longest_right_answer_is_longer_than_the_mean_wrong_one():
    for rule in ("text", "vision"):
        assert weight(rule, (1.0, 5), (1.0, 1), (0.0, 4), (0.0, 5)) == 1.0  # 5 > 4.5
        assert weight(rule, (1.0, 4), (1.0, 1), (0.0, 4), (0.0, 4)) == pytest.approx(0.1)  # 4 = 4 is not longer
        assert weight(rule, (1.0, 2), (0.0, 1), (0.0, 4)) == pytest.approx(0.1)


def test_wrong_answers_that_were_cut_off_say_nothing_about_length():
    group = ((1.0, 3), (0.0, 2), (0.0, 9))
    for rule in ("text", "vision"):
        assert weight(rule, *group) == pytest.approx(0.1)
        assert weight(rule, *group, truncated=(2,)) == 1.0


def test_the_two_rules_differ_where_one_side_is_empty():
    all_right = ((1.0, 3), (0.8, 2))  # both above 1/2, and still different
    none_right = ((0.4, 3), (0.1, 2))
    assert (weight("text", *all_right), weight("vision", *all_right)) == (1.0, pytest.approx(0.1))
    assert (weight("text", *none_right), weight("vision", *none_right)) == (pytest.approx(0.1), 1.0)
    # only cut-off rollouts beside the right ones: nothing wrong to compare with
    cut = ((1.0, 3), (0.0, 9))
    assert (weight("text", *cut, truncated=(1,)), weight("vision", *cut, truncated=(1,))) == (1.0, pytest.approx(0.1))


def test_a_weight_of_one_is_grpo_and_the_sum_over_a_group_stays_zero():
    groups = ([(1.0, 5), (0.0, 6), (0.0, 7)], [(0.0, 1), (1.0, 8)], [(0.3, 2)] * 3)
    channel, traj = rollouts(*groups)
    assert adora(channel, traj, weight=1.0).value.equal(grpo(channel, traj, convention="verl").value)
    found = adora(channel, traj).value[:, 0]
    assert [float(part.sum()) for part in found.split([3, 2, 3])] == pytest.approx([0, 0, 0], abs=1e-6)
    assert found[5:].abs().max() == 0


def test_unknown_rollouts_say_nothing_about_length():
    channel, traj = rollouts([(1.0, 3), (0.0, 2), (0.0, 9)])
    channel.valid[2] = False
    plain = grpo(channel, traj, convention="verl").value
    assert adora(channel, traj).value.equal(plain)
    assert plain.abs().max() > 0


def term(advantage) -> Term:
    return Term(weigh({"x": [total, advantage]}), policy_gradient, sequence_sum)


def test_adora_turns_the_gradient_towards_long_right_answers():
    policy = Tabular(3, 3, stop=2, spread=1.0, seed=1)  # the 15 sequences are of 1 to 3 actions
    reward = torch.zeros(15, dtype=torch.float64)
    reward[[3, 13]] = 1  # one of three actions, one of two
    found, plain = (
        bias(policy, [term(functools.partial(adora, weight=w))], {"x": reward}, reward, group_size=3) for w in (0.1, 1.0)
    )
    assert plain.residual < 1e-5  # GRPO of a binary reward; verl's epsilon
    assert found.residual > 0.05
    p, length = policy.probabilities(), policy.tree.length.to(torch.float64)
    longer = torch.autograd.grad((p * reward * length).sum() / (p * reward).sum(), policy.logits)[0].flatten()
    pull = lambda b: float(b.expected @ longer / (b.expected.norm() * longer.norm()))
    assert pull(found) > pull(plain) + 0.02


def test_gpg_makes_up_for_groups_that_say_nothing():
    channel, traj = rollouts([(1.0, 1), (0.0, 1)], [(1.0, 1)] * 2, [(0.0, 1)] * 2)
    assert gpg(channel, traj).value[:, 0].tolist() == [1.5, -1.5, 0, 0, 0, 0]  # 6 rollouts, 2 of which differ
    assert gpg(channel, traj, convention="verl").value[:, 0].tolist() == [1, -1, 0, 0, 0, 0]  # 3 of 6 are not 0
    silent = rollouts([(0.7, 1)] * 3)
    assert gpg(*silent).value.abs().max() == 0


def test_one_group_is_dr_grpo_and_several_keep_the_direction_of_every_start():
    one = [expected_gradient(POLICY, [term(a)], {"x": RIGHT}, group_size=3) for a in (gpg, dr_grpo)]
    torch.testing.assert_close(*one, rtol=0, atol=1e-12)
    found = bias(TWO, [term(gpg)], {"x": RIGHT_OF_TWO}, RIGHT_OF_TWO, group_size=2, starts=(0, 1))
    for own, exact in zip(found.expected.view(2, -1), found.exact.view(2, -1), strict=True):
        assert float(own @ exact / (own.norm() * exact.norm())) == pytest.approx(1, abs=1e-9)
    assert found.residual > 1e-3  # but weighs the starts anew


def test_what_makes_no_sense_is_refused():
    channel, traj = rollouts([(1.0, 1), (0.0, 1)])
    with pytest.raises(ValueError, match="weight must be >= 0"):
        adora(channel, traj, weight=-1.0)
    with pytest.raises(ValueError, match="rule must be one of text, vision"):
        inspect.unwrap(adora)(channel, traj, rule="audio")
    with pytest.raises(ValueError, match="convention must be"):
        inspect.unwrap(gpg)(channel, traj, convention="trl")
