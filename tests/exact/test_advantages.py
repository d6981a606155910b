"""What each advantage does to the policy gradient on average, to 1e-9: which keep it, scale it or turn it, and by how much."""

import functools
import math

import pytest
import torch

from payoff.advantages.baselines import step_rate_baseline, token_rate_baseline
from payoff.advantages.batch import batch_standardise, reinforce_plus_plus, reinforce_plus_plus_baseline, rms
from payoff.advantages.group import dr_grpo, grpo, leave_one_out, mean_baseline
from payoff.advantages.normalise import standardise
from payoff.advantages.prime import token_leave_one_out
from payoff.credit.returns import return_to_go, total
from payoff.exact import bias, compare, credit_gradient, exact_gradient, expected_gradient, gradient_covariance
from payoff.losses.aggregation import constant_length, sequence_mean, sequence_sum, token_mean
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular

F64 = torch.float64
STOPPED = Tabular(3, 3, stop=2, spread=1.0, seed=1)  # 15 sequences of 1 to 3 actions
EQUAL = Tabular(3, 3, spread=1.0, seed=1)  # 27 sequences of 3 actions
SMALL = Tabular(2, 2, stop=1, spread=1.0, seed=1)  # 3 sequences


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def drawn(policy: Tabular, *, dense: bool = False, seed: int = 0) -> torch.Tensor:
    """A reward for every sequence; or one for every action, that depends on nothing later, as an environment pays."""
    if not dense:
        return normal(len(policy.tree), seed=seed)
    table = normal(policy.tree.prefix_count * policy.tree.vocabulary, seed=seed)
    return torch.where(policy.tree.exists, table[policy.tree.edge], 0)


def term(*path, aggregation=sequence_sum, weight: float = 1.0) -> Term:
    return Term(weigh({"reward": list(path)}), policy_gradient, aggregation, weight)


def binary(policy: Tabular, share: float = 0.3) -> torch.Tensor:
    return (torch.rand(len(policy.tree), generator=torch.Generator().manual_seed(2)) < share).to(F64)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


# --- unbiased


@pytest.mark.parametrize(
    ("policy", "size"), [(EQUAL, 2), (EQUAL, 3), (STOPPED, 2), (STOPPED, 4), (SMALL, 4), (SMALL, (2, 3)), (SMALL, (2, 2, 4))]
)
@pytest.mark.parametrize("credit", [total, return_to_go])
def test_rloo_gradient_is_unbiased_for_every_group_size_and_for_mixed_ones(policy, size, credit):
    reward = drawn(policy, dense=True)
    found = expected_gradient(policy, [term(credit, leave_one_out)], {"reward": reward}, group_size=size)
    close(found, exact_gradient(policy, reward))


def test_leaving_oneself_out_of_the_whole_batch_is_unbiased_too_though_other_starts_have_other_values():
    policy, reward = Tabular(2, 1, starts=2, spread=1.0), normal(4)
    path = functools.partial(standardise, over="batch", baseline="leave-one-out", scale="none")
    found = expected_gradient(policy, [term(total, path)], {"reward": reward}, group_size=(2, 3), starts=(0, 1))
    # the baseline is independent of the action, whatever it is; the starts weigh as their rollouts, 2 and 3 of 5
    first, second = exact_gradient(policy, reward[:2], starts=(0,)), exact_gradient(policy, reward[2:], starts=(1,))
    close(found, (2 * first + 3 * second) / 5)


@pytest.mark.parametrize("policy", [STOPPED, EQUAL])
def test_per_step_leave_one_out_with_ended_rollouts_as_zero_is_unbiased(policy):
    reward = drawn(policy, dense=True)
    path = functools.partial(leave_one_out, over="step", ended="zero")
    found = expected_gradient(policy, [term(return_to_go, path)], {"reward": reward}, group_size=3)
    close(found, exact_gradient(policy, reward))


@pytest.mark.parametrize("size", [2, 3])
def test_per_step_leave_one_out_without_ended_rollouts_is_unbiased_only_if_a_step_alone_keeps_its_credit(size):
    reward = drawn(STOPPED, dense=True)
    path = functools.partial(standardise, over="step", unit="step", baseline="leave-one-out", scale="none", ended="absent")
    kept = bias(STOPPED, [term(return_to_go, functools.partial(path, single="raw"))], {"reward": reward}, reward, group_size=size)
    assert kept.difference.abs().max() < 1e-9
    # set to 0 instead, late steps lose the chance that nobody else gets that far
    lost = bias(STOPPED, [term(return_to_go, functools.partial(path, single="zero"))], {"reward": reward}, reward, group_size=size)
    assert lost.residual > 0.05


def test_per_step_baselines_have_less_variance_than_one_for_all_steps():
    reward = {"reward": drawn(EQUAL, dense=True)}
    by_step = term(return_to_go, functools.partial(leave_one_out, over="step"))
    one, many = (
        float(gradient_covariance(EQUAL, [t], reward, group_size=2).trace()) for t in (term(return_to_go, leave_one_out), by_step)
    )
    assert many < 0.9 * one


# --- scaled


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("advantage", [mean_baseline, dr_grpo])
def test_a_mean_that_counts_oneself_costs_one_part_in_group_size(size, advantage):
    reward = drawn(STOPPED)
    found = expected_gradient(STOPPED, [term(total, advantage)], {"reward": reward}, group_size=size)
    close(found, (1 - 1 / size) * exact_gradient(STOPPED, reward))


def test_with_mixed_group_sizes_the_mean_baseline_is_still_in_the_right_direction():
    reward = drawn(SMALL)
    found = expected_gradient(SMALL, [term(total, mean_baseline)], {"reward": reward}, group_size=(2, 3))
    # 2 rows of 5 at 1/2 and 3 of 5 at 2/3: 1/5 + 2/5
    close(found, 0.6 * exact_gradient(SMALL, reward))


def test_rloo_is_dr_grpo_times_g_over_g_minus_one_in_every_batch_and_so_in_covariance():
    reward = {"reward": drawn(STOPPED)}
    one, other = (gradient_covariance(STOPPED, [term(total, a)], reward, group_size=3) for a in (leave_one_out, dr_grpo))
    torch.testing.assert_close(one, other * (3 / 2) ** 2, rtol=0, atol=1e-12)


def spread_of_binary(p: float, size: int) -> float:
    """E[sqrt(q (1 - q))], q the share of successes among `size` draws of chance p."""
    return sum(math.comb(size, k) * p**k * (1 - p) ** (size - k) * math.sqrt(k / size * (1 - k / size)) for k in range(size + 1))


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("tilt", [-2.0, 0.0, 2.0])
def test_grpo_keeps_the_direction_of_a_binary_reward_and_weighs_a_start_by_its_difficulty(size, tilt):
    policy = Tabular(3, 2, stop=2, spread=1.0)
    reward = binary(policy, 0.4)
    with torch.no_grad():
        policy.logits[0, 0, 0] += tilt
        p = float(policy.probabilities() @ reward)
    found = bias(policy, [term(total, grpo)], {"reward": reward}, reward, group_size=size)
    assert found.residual < 1e-9
    # The share q of successes gives the right ones sqrt((1 - q) / q), the others -sqrt(q / (1 - q)).
    assert abs(found.scale - spread_of_binary(p, size) / (p * (1 - p))) < 1e-9


def test_over_two_starts_grpo_weighs_the_hard_one_more_from_three_rollouts_on_and_rloo_never():
    policy = Tabular(3, 1, starts=2, logits=torch.tensor([[[3.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]], dtype=F64))
    reward = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 0.0], dtype=F64)  # the first start is hard, the second is not
    options = {"group_size": 2, "starts": (0, 1)}
    honest = bias(policy, [term(total, leave_one_out)], {"reward": reward}, reward, **options)
    assert honest.difference.abs().max() < 1e-9
    turned = bias(policy, [term(total, grpo)], {"reward": reward}, reward, **options)
    # with two rollouts E[sqrt(q(1-q))] / (p(1-p)) = 2p(1-p) / 2 / (p(1-p)) = 1: no difficulty weight at all
    assert turned.difference.abs().max() < 1e-9
    turned = bias(policy, [term(total, grpo)], {"reward": reward}, reward, group_size=3, starts=(0, 1))
    parts = turned.expected.view(2, 3).norm(dim=1) / turned.exact.view(2, 3).norm(dim=1)
    p = policy.probabilities(0)[1].item(), policy.probabilities(1)[0].item()
    for part, chance in zip(parts.tolist(), p):
        assert abs(part - spread_of_binary(chance, 3) / (chance * (1 - chance))) < 1e-9
    assert parts[0] > parts[1]


def test_grpo_turns_the_gradient_of_a_reward_with_many_values():
    reward = drawn(EQUAL)
    found = bias(EQUAL, [term(total, grpo)], {"reward": reward}, reward, group_size=3)
    assert 0.02 < found.residual < 0.5
    # nor does more than the direction survive of any reward scale: an affine map of the reward changes nothing
    mapped = expected_gradient(EQUAL, [term(total, grpo)], {"reward": 7 * reward + 3}, group_size=3)
    torch.testing.assert_close(mapped, found.expected, rtol=0, atol=1e-9)


# --- turned by what the baseline knows


def test_a_per_step_mean_is_right_up_to_scale_with_ended_rollouts_as_zero_and_turned_without_them():
    reward = drawn(STOPPED, dense=True)
    tables, options = {"reward": reward}, {"group_size": 3}
    zero = bias(
        STOPPED, [term(return_to_go, functools.partial(mean_baseline, over="step", ended="zero"))], tables, reward, **options
    )
    assert zero.residual < 1e-9
    assert abs(zero.scale - 2 / 3) < 1e-9
    absent = bias(
        STOPPED, [term(return_to_go, functools.partial(mean_baseline, over="step", ended="absent"))], tables, reward, **options
    )
    assert absent.residual > 0.02
    # where every rollout has every step there is nothing to choose
    same = bias(
        EQUAL,
        [term(return_to_go, functools.partial(mean_baseline, over="step", ended="absent"))],
        {"reward": drawn(EQUAL, dense=True)},
        drawn(EQUAL, dense=True),
        group_size=3,
    )
    assert same.residual < 1e-9


def test_a_whitened_batch_is_turned_and_its_group_means_are_not_undone():
    reward = drawn(STOPPED)
    for advantage in (reinforce_plus_plus, reinforce_plus_plus_baseline, batch_standardise, rms):
        found = bias(STOPPED, [term(total, advantage)], {"reward": reward}, reward, group_size=3)
        assert 0.01 < found.residual < 0.7, advantage


def test_with_equal_lengths_and_one_group_reinforce_plus_plus_is_grpo():
    reward = {"reward": drawn(EQUAL)}
    found = [expected_gradient(EQUAL, [term(total, a)], reward, group_size=3) for a in (reinforce_plus_plus, grpo)]
    close(*found)


@pytest.mark.parametrize("size", [2, 3])
def test_primes_token_baseline_weighs_later_actions_more(size):
    # (n r_t - sum_i m_i) / (n - 1), summed from t on: a rollout's own mean total / T takes part, T - t times.
    # So action t gets n / (n - 1) - (T - t) / (T (n - 1)) of the gradient it should have: 1 at the first, more later.
    reward, horizon = drawn(EQUAL, dense=True), 3
    found = expected_gradient(EQUAL, [term(token_leave_one_out, return_to_go)], {"reward": reward}, group_size=size)
    to_go = reward.flip(1).cumsum(1).flip(1)
    share = torch.tensor([(size - (horizon - t) / horizon) / (size - 1) for t in range(horizon)], dtype=F64)
    close(found, credit_gradient(EQUAL, to_go * share))
    assert abs(float(share[0]) - 1) < 1e-12
    assert compare(found, exact_gradient(EQUAL, reward)).residual > 0.01


# --- length


def mean_value(policy: Tabular, reward: torch.Tensor) -> float:
    return float(policy.probabilities().detach() @ reward)


def test_averaging_each_sequence_over_its_actions_climbs_the_surplus_per_action():
    # E[(r - b) / length] with b held at E[r]: short good answers and long bad ones are favoured
    reward, length = drawn(STOPPED), STOPPED.tree.length.to(F64)
    found = expected_gradient(STOPPED, [term(total, leave_one_out, aggregation=sequence_mean)], {"reward": reward}, group_size=3)
    close(found, exact_gradient(STOPPED, (reward - mean_value(STOPPED, reward)) / length))
    assert compare(found, exact_gradient(STOPPED, reward)).residual > 0.05


def test_a_reward_that_says_nothing_still_moves_length_only_without_a_baseline():
    reward = torch.ones(len(STOPPED.tree), dtype=F64)
    for aggregation, moves in ((sequence_sum, False), (sequence_mean, True), (token_mean, True)):
        found = expected_gradient(STOPPED, [term(total, aggregation=aggregation)], {"reward": reward}, group_size=2)
        assert (found.abs().max() > 1e-3) == moves
        centred = expected_gradient(
            STOPPED, [term(total, leave_one_out, aggregation=aggregation)], {"reward": reward}, group_size=2
        )
        assert centred.abs().max() < 1e-12


def test_a_constant_length_only_scales_and_a_token_mean_turns():
    reward = drawn(STOPPED)
    path = [total, leave_one_out]
    constant = bias(
        STOPPED,
        [term(*path, aggregation=functools.partial(constant_length, max_length=3))],
        {"reward": reward},
        reward,
        group_size=3,
    )
    assert constant.residual < 1e-9
    assert abs(constant.scale - 1 / 3) < 1e-9
    token = bias(STOPPED, [term(*path, aggregation=token_mean)], {"reward": reward}, reward, group_size=3)
    assert token.residual > 0.01
    # one rollout alone is its own batch: the token mean is the sequence mean there, but needs a baseline from elsewhere
    one = [
        expected_gradient(STOPPED, [term(total, aggregation=a)], {"reward": reward}, group_size=1)
        for a in (token_mean, sequence_mean)
    ]
    close(*one)


def test_with_equal_lengths_every_aggregation_is_the_same_up_to_scale():
    reward = drawn(EQUAL)
    for aggregation, scale in ((sequence_sum, 1), (sequence_mean, 1 / 3), (token_mean, 1 / 3)):
        found = expected_gradient(EQUAL, [term(total, leave_one_out, aggregation=aggregation)], {"reward": reward}, group_size=2)
        close(found, scale * exact_gradient(EQUAL, reward))


@pytest.mark.parametrize(("baseline", "unit"), [(token_rate_baseline, 1), (step_rate_baseline, 2)])
@pytest.mark.parametrize("size", [2, 3])
def test_charging_at_the_rate_of_the_others_climbs_the_reward_minus_rate_times_length(baseline, unit, size):
    policy = Tabular(3, 4, stop=2, spread=1.0, seed=3, step_length=unit)  # lengths 1 to 4; steps of one action or of two
    reward = drawn(policy, dense=True)
    length = policy.tree.length.to(F64)
    units = torch.ceil(length / unit) if baseline is step_rate_baseline else length
    found = expected_gradient(policy, [term(baseline, return_to_go)], {"reward": reward}, group_size=size)
    # b = what the others are paid per action: a ratio of sums, or per step: a mean of ratios; independent of one's own rollout
    p, totals = policy.probabilities().detach(), reward.sum(1)
    if baseline is step_rate_baseline:
        rate = float(p @ (totals / units))
    else:
        others = torch.cartesian_prod(*[torch.arange(len(p))] * (size - 1)).view(-1, size - 1)
        rate = float((p[others].prod(1) * totals[others].sum(1) / length[others].sum(1)).sum())
    close(found, exact_gradient(policy, totals - rate * units))
    assert compare(found, exact_gradient(policy, totals)).residual > 0.05


# --- verdicts that never came


def test_a_missing_verdict_conditions_on_there_being_one():
    # Those without verdict get no gradient, and at least two with one are needed: P(two or more known) times grad E[r | known].
    reward = drawn(STOPPED).clone()
    unknown = torch.arange(len(reward)) % 4 == 1
    reward[unknown] = torch.nan
    p = STOPPED.probabilities()
    known = p[~unknown].sum()
    conditional = torch.autograd.grad((p[~unknown] / known) @ reward[~unknown], STOPPED.logits)[0].flatten()
    chance = known.item()
    for size in (2, 3):
        two = 1 - (1 - chance) ** size - size * chance * (1 - chance) ** (size - 1)
        found = expected_gradient(STOPPED, [term(total, leave_one_out)], {"reward": reward}, group_size=size)
        torch.testing.assert_close(found / two, conditional, rtol=0, atol=1e-9)
