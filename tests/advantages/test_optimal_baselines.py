"""Baselines that weigh rollouts by the noise they bring: worked numbers, the norm they stand for, and which are unbiased."""

import functools

import pytest
import torch

from payoff.advantages.group import leave_one_out, mean_baseline
from payoff.advantages.optimal_baselines import (
    exact_optimal_token_baseline,
    greedy_baseline,
    length_weighted_baseline,
    optimal_token_baseline,
)
from payoff.credit.returns import return_to_go, total
from payoff.exact import bias, exact_gradient, expected_gradient, gradient_covariance
from payoff.examples import four_answers
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, Trajectories, concatenate

F64 = torch.float64
STOPPED = Tabular(3, 3, stop=2, spread=1.0, seed=1)  # 15 sequences of 1 to 3 actions
EQUAL = Tabular(2, 3, spread=1.0, seed=1)  # 8 sequences of 3 actions, two to choose from


def outcomes(policy: Tabular) -> torch.Tensor:
    return torch.randn(len(policy.tree), generator=torch.Generator().manual_seed(0), dtype=F64)


def drawn(policy: Tabular) -> torch.Tensor:
    table = torch.randn(policy.tree.prefix_count * policy.tree.vocabulary, generator=torch.Generator().manual_seed(3), dtype=F64)
    return torch.where(policy.tree.exists, table[policy.tree.edge], 0)


def term(*path) -> Term:
    return Term(weigh({"x": list(path)}), policy_gradient, sequence_sum)


def column(*value: float, dtype=torch.float32) -> Channel:
    return Channel(torch.tensor(value, dtype=dtype)[:, None], torch.ones(len(value), 1, dtype=torch.bool))


LEFT_OUT = functools.partial(length_weighted_baseline, own="left-out")


# --- by length


def test_long_rollouts_weigh_more_in_the_baseline():
    one_start = four_answers().replace(group=torch.zeros(4, dtype=torch.int64))
    # lengths 3, 2, 3, 1: (3 * 1 + 2 * 0 + 3 * 2 + 1 * 4) / 9 = 13 / 9
    found = length_weighted_baseline(column(1.0, 0.0, 2.0, 4.0), one_start).value[:, 0]
    assert found.tolist() == pytest.approx([1 - 13 / 9, -13 / 9, 2 - 13 / 9, 4 - 13 / 9], rel=1e-6)
    # others: (0 + 6 + 4) / 6, 13 / 7, (3 + 0 + 4) / 6, 9 / 8
    found = LEFT_OUT(column(1.0, 0.0, 2.0, 4.0), one_start).value[:, 0]
    assert found.tolist() == pytest.approx([1 - 10 / 6, -13 / 7, 2 - 7 / 6, 4 - 9 / 8], rel=1e-6)


def test_leaving_oneself_out_by_length_is_unbiased_and_the_published_form_is_turned_where_lengths_vary():
    reward = outcomes(STOPPED)
    for size in (2, 3):
        fair = bias(STOPPED, [term(total, LEFT_OUT)], {"x": reward}, reward, group_size=size)
        assert fair.difference.abs().max() < 1e-9
        published = bias(STOPPED, [term(total, length_weighted_baseline)], {"x": reward}, reward, group_size=size)
        assert published.residual > 0.02


def test_with_equal_lengths_it_is_the_mean_baseline_or_leave_one_out_in_every_batch():
    reward = {"x": outcomes(EQUAL)}
    for ours, plain in ((length_weighted_baseline, mean_baseline), (LEFT_OUT, leave_one_out)):
        opposite = Term(term(total, plain).target, policy_gradient, sequence_sum, -1.0)
        assert gradient_covariance(EQUAL, [term(total, ours), opposite], reward, group_size=3).abs().max() < 1e-18


# --- by surprise


def with_probabilities(*rows: list[float]) -> Trajectories:
    """One group, a probability for every action taken; lengths as given."""
    width = max(map(len, rows))
    length = torch.tensor([len(row) for row in rows])
    exists = torch.arange(width) < length[:, None]
    p = torch.tensor([row + [1.0] * (width - len(row)) for row in rows])
    return Trajectories(
        mask=exists,
        length=length,
        group=torch.zeros(len(rows), dtype=torch.int64),
        step=torch.where(exists, 0, -1).int(),
        stop=torch.zeros(len(rows), dtype=torch.int64),
        actions=torch.zeros(len(rows), width, dtype=torch.int64),
        logp={"old": p.log()},
    )


def test_golden_numbers_of_the_token_baseline():
    # energies (1 - p)^2: row 0: 0.25, 0.25 -> so far 0.25, 0.5; row 1: 0.01, 0.25 -> 0.01, 0.26; row 2: 0.64
    traj = with_probabilities([0.5, 0.5], [0.9, 0.5], [0.2])
    found = optimal_token_baseline(column(1.0, 0.0, 3.0), traj).value
    first, second = (0.25 * 1 + 0.64 * 3) / 0.9, 0.5 / 0.76
    expected = [[1 - first, 1 - second], [-first, -second], [3 - first, 0]]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    left_out = optimal_token_baseline(column(1.0, 0.0, 3.0), traj, own="left-out").value
    expected = [[1 - 1.92 / 0.65, 1.0], [-(0.25 + 1.92) / 0.89, -1.0], [3 - 0.25 / 0.26, 0]]
    torch.testing.assert_close(left_out, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_what_is_summed_is_the_squared_norm_of_the_gradient_by_the_logits():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=F64, requires_grad=True)
    logp = logits.log_softmax(1)[:, 1]
    norms = torch.stack([torch.autograd.grad(x, logits, retain_graph=True)[0].square().sum() for x in logp])
    p = logits.detach().softmax(1)
    traj = with_probabilities(*[[float(x)] for x in p[:, 1]])
    traj = traj.replace(logp={"old": logp.detach()[:, None]}, extras={"squares": p.square().sum(1, keepdim=True)})
    credit = column(1.0, -2.0, 0.5, dtype=F64)
    found = optimal_token_baseline(credit, traj, squares="squares").value[:, 0]
    baseline = (norms * credit.value[:, 0]).sum() / norms.sum()
    torch.testing.assert_close(found, credit.value[:, 0] - baseline, rtol=0, atol=1e-12)


def test_with_two_actions_the_squares_are_not_needed():
    traj = with_probabilities([0.3, 0.6], [0.8, 0.1], [0.5])
    p = traj.logp["old"].exp()
    full = traj.replace(extras={"squares": p.square() + (1 - p).square()})
    credit = column(1.0, -2.0, 0.5)
    for own in ("included", "left-out"):
        found = [
            optimal_token_baseline(credit, full, own=own, squares="squares").value,
            optimal_token_baseline(credit, traj, own=own).value,
        ]
        torch.testing.assert_close(*found)


def test_the_exact_token_baseline_makes_the_variance_least_and_the_one_without_the_sum_does_not():
    """Sequences of two actions, as many rows of each as it has sixteenths of probability: the group's means are expectations.

    The score S_t of a prefix has mean 0, so that a number b taken off the return changes the variance of S_t (C_t - b) and not its
    mean: that variance is a parabola in b.
    """
    policy = Tabular(3, 2, logits=torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]).log())
    rows = torch.arange(9).repeat_interleave((16 * policy.probabilities()).round().long())
    group = policy.sequences().select(rows)
    group = group.replace(id=torch.arange(16), group=torch.zeros(16, dtype=torch.int64))
    evaluation = policy.evaluate(group, frozenset({"sum_pi_squared"}))
    group = group.replace(logp={"old": evaluation.logp.detach()}, extras={**evaluation.more})
    returns = return_to_go(Channel(drawn(policy)[rows], torch.ones(16, 1, dtype=torch.bool)), group)
    slope = lambda x: torch.autograd.grad(x, policy.logits, retain_graph=True)[0].flatten()
    scores = [torch.stack([slope(evaluation.logp[i, : t + 1].sum()) for i in range(16)]) for t in range(2)]

    def variances(found: Channel) -> list[float]:
        return [float((s * found.value[:, t : t + 1]).var(0, correction=0).sum()) for t, s in enumerate(scores)]

    least = variances(exact_optimal_token_baseline(returns, group))
    for off in (-0.01, 0.01):
        around = variances(Channel(exact_optimal_token_baseline(returns, group).value + off, returns.valid))
        assert all(x > y + 1e-6 for x, y in zip(around, least, strict=True))
    assert all(x > y + 1e-9 for x, y in zip(variances(optimal_token_baseline(returns, group)), least, strict=True))
    assert all(x > y for x, y in zip(variances(mean_baseline(returns, group)), least, strict=True))


@pytest.mark.parametrize("align", ["action", "position"])
def test_the_token_baseline_of_the_others_is_unbiased_and_with_oneself_it_is_turned(align):
    reward = drawn(STOPPED)
    fair, published = (
        bias(
            STOPPED,
            [term(return_to_go, functools.partial(optimal_token_baseline, own=own, align=align))],
            {"x": reward},
            reward,
            group_size=3,
        )
        for own in ("left-out", "included")
    )
    assert fair.difference.abs().max() < 1e-9
    assert published.residual > 0.02


def test_an_action_nobody_else_has_a_counterpart_for_keeps_its_credit():
    traj = with_probabilities([0.5, 0.5, 0.5], [0.5])
    found = optimal_token_baseline(column(2.0, 1.0), traj).value
    assert found[0].tolist() == [0.5, 2.0, 2.0]
    alone = traj.select(torch.tensor([0]))
    assert optimal_token_baseline(column(2.0), alone).value.tolist() == [[2.0, 2.0, 2.0]]


def test_actions_are_counted_without_the_tool_text_between_them_or_by_position():
    mask = torch.tensor([[True, False, True], [True, True, False]])
    traj = with_probabilities([0.5, 0.5, 0.5], [0.5, 0.5]).replace(mask=mask)
    credit = Channel(torch.tensor([[4.0, 9.0, 2.0], [0.0, 0.0, 0.0]]), torch.ones(2, 1, dtype=torch.bool))
    assert optimal_token_baseline(credit, traj).value.tolist() == [[2.0, 9.0, 1.0], [-2.0, -1.0, 0.0]]
    assert optimal_token_baseline(credit, traj, align="position").value.tolist() == [[2.0, 9.0, 2.0], [-2.0, 0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_equal_credits_give_exactly_zero(dtype):
    rng = torch.Generator().manual_seed(0)
    traj = with_probabilities(*[torch.rand(4, generator=rng).tolist() for _ in range(12)])
    for value in (0.97, 0.1, 1e6 / 3):
        credit = column(*[value] * 12, dtype=dtype)
        for own in ("included", "left-out"):
            assert optimal_token_baseline(credit, traj, own=own).value.abs().max() == 0
            assert length_weighted_baseline(credit, traj, own=own).value.abs().max() == 0
    sure = traj.replace(logp={"old": torch.zeros(12, 4)})  # nothing could have been otherwise
    assert optimal_token_baseline(column(*[0.7] * 12, dtype=dtype), sure).value.abs().max() == 0


# --- by the greedy answer


def test_the_greedy_answer_as_baseline_is_unbiased_for_one_rollout_and_for_several():
    reward = outcomes(STOPPED)
    leaves = STOPPED.sequences()
    greedy = int(STOPPED.probabilities().argmax())

    def target(rewards, traj: Trajectories) -> Channel:
        batches = traj.extras["batch"].unique()
        extra = leaves.select(torch.full((len(batches),), greedy))
        first = torch.stack([(traj.extras["batch"] == b).nonzero()[0, 0] for b in batches])
        extra = extra.replace(
            group=traj.group[first], extras={"batch": batches, "leaf": torch.full((len(batches),), greedy)}, id=-1 - batches
        )
        both = concatenate([traj.replace(logp={}), extra.replace(logp={})]) if not traj.logp else concatenate([traj, extra])
        both = both.replace(extras={"greedy": torch.arange(len(both)) >= len(traj)})
        paid = Channel(reward[both.extras["leaf"]][:, None], torch.ones(len(both), 1, dtype=torch.bool))
        found = greedy_baseline(paid, both)
        assert not found.valid[len(traj) :].any()
        return Channel(found.value[: len(traj)], found.valid[: len(traj)])

    for size in (1, 2):
        found = expected_gradient(STOPPED, [Term(target, policy_gradient, sequence_sum)], {"x": reward}, group_size=size)
        torch.testing.assert_close(found, exact_gradient(STOPPED, reward), rtol=0, atol=1e-9)


def test_several_greedy_answers_are_averaged_and_a_group_without_one_gets_nothing():
    traj = four_answers().replace(group=torch.tensor([0, 0, 0, 1]), extras={"greedy": torch.tensor([1, 0, 1, 0])})
    found = greedy_baseline(column(1.0, 5.0, 2.0, 7.0), traj)
    assert found.value[:, 0].tolist() == [0.0, 3.5, 0.0, 0.0]
    assert found.valid[:, 0].tolist() == [False, True, False, True]


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match=r"needs extras\['greedy'\]"):
        greedy_baseline(column(1, 0, 0, 0), four_answers())
    with pytest.raises(ValueError, match=r"needs extras\['sum_pi_squared'\]"):
        exact_optimal_token_baseline(column(1, 0, 0, 0), four_answers())
    with pytest.raises(ValueError, match=r"needs extras\['squares'\]"):
        optimal_token_baseline(column(1, 0, 0, 0), four_answers(), squares="squares")
