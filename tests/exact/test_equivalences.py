"""The web of equivalences: one method at a parameter is another, in expectation and where it says so in every batch."""

import functools
import math

import pytest
import torch

from payoff.advantages.beta_normalised import beta_normalised
from payoff.advantages.group import dr_grpo, grpo, leave_one_out, mean_baseline
from payoff.credit.returns import total
from payoff.exact import bias, exact_gradient, expected_gradient, gradient_covariance
from payoff.losses.aggregation import sequence_mean, sequence_sum
from payoff.losses.implicit_actor_critic import implicit_actor_critic
from payoff.losses.negative_aware import negative_aware
from payoff.losses.policy_gradient import policy_gradient
from payoff.losses.random_policy_valuation import random_policy_valuation
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.shaping.unlikeliness import unlikeliness

F64 = torch.float64
POLICY = Tabular(3, 2, stop=2, spread=1.0, seed=1)  # 7 sequences of 1 or 2 actions
RIGHT = torch.tensor([1, 0, 0, 1, 0, 0, 1], dtype=F64)
TWO = Tabular(2, 2, stop=1, starts=2, spread=1.0, seed=4)  # 3 sequences of each of two starts
RIGHT_OF_TWO = torch.tensor([1, 0, 0, 1, 1, 0], dtype=F64)


def same_in_every_batch(one: Term, other: Term, *, factor: float = 1.0, policy=POLICY, reward=RIGHT, **options) -> None:
    """The difference of the two is a term without gradient in any batch."""
    opposite = Term(other.target, other.loss, other.aggregation, -factor)
    assert gradient_covariance(policy, [one], {"x": reward}, **options).trace() > 1e-3
    assert gradient_covariance(policy, [one, opposite], {"x": reward}, **options).abs().max() < 1e-18
    assert expected_gradient(policy, [one, opposite], {"x": reward}, **options).abs().max() < 1e-9


def term(*path, loss=policy_gradient, aggregation=sequence_sum) -> Term:
    return Term(weigh({"x": list(path)}), loss, aggregation)


@pytest.mark.parametrize(("weight", "advantage"), [("dr-grpo", dr_grpo), ("grpo", grpo)])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_nft_is_on_policy_the_advantage_its_weight_is_named_after(weight, advantage, size):
    one = term(total, mean_baseline, loss=functools.partial(negative_aware, weight=weight))
    same_in_every_batch(one, term(total, advantage), group_size=size)


def test_nft_over_sequences_is_so_too_one_term_for_each():
    one = term(
        total, mean_baseline, loss=functools.partial(negative_aware, level="sequence", weight="grpo"), aggregation=sequence_mean
    )
    same_in_every_batch(one, term(total, grpo), group_size=3)


def test_nft_without_wrong_answers_keeps_the_direction_of_a_start_and_is_noisier():
    # an ordinary clamp at 1 would leave just this: cloning of right answers, whose mean is a multiple of the gradient too
    goal = {"x": RIGHT}
    terms = [term(total, mean_baseline, loss=functools.partial(negative_aware, negative=x)) for x in (0.0, 1.0)]
    found = [bias(POLICY, [t], goal, RIGHT, group_size=3) for t in terms]
    assert max(f.residual for f in found) < 1e-9
    noise = [
        float(gradient_covariance(POLICY, [t], goal, group_size=3).trace() / f.expected.square().sum())
        for t, f in zip(terms, found, strict=True)
    ]
    assert noise[0] > 1.2 * noise[1]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_unbalanced_pacs_is_on_policy_leave_one_out_and_so_unbiased(size):
    one = term(total, loss=functools.partial(implicit_actor_critic, balanced=False), aggregation=sequence_mean)
    same_in_every_batch(one, term(total, leave_one_out), group_size=size)


@pytest.mark.parametrize("size", [2, 3])
def test_balanced_pacs_is_that_over_four_times_the_variance_of_the_outcome(size):
    # over 4 r (1 - r): with two rollouts that is 1, with three 8/9, wherever there is a difference at all
    one = term(total, loss=implicit_actor_critic, aggregation=sequence_mean)
    factor = 1.0 if size == 2 else 9 / 8
    same_in_every_batch(one, term(total, leave_one_out), factor=factor, group_size=size)


def test_from_four_rollouts_on_balanced_pacs_weighs_by_pass_rate_and_keeps_the_direction_of_a_start():
    one = term(total, loss=implicit_actor_critic, aggregation=sequence_mean)
    found = bias(POLICY, [one], {"x": RIGHT}, RIGHT, group_size=4)
    assert found.residual < 1e-9
    # E[n/(n-1) r (1-r) / (4 r (1-r))] over mixed groups, per p (1 - p): (1/3) P(mixed) / (p (1 - p))
    p = float(POLICY.probabilities().detach() @ RIGHT)
    assert found.scale == pytest.approx((1 - p**4 - (1 - p) ** 4) / (3 * p * (1 - p)), abs=1e-9)


def test_rover_is_on_policy_twice_the_mean_baseline():
    one = term(total, mean_baseline, loss=random_policy_valuation)
    same_in_every_batch(one, term(total, mean_baseline), factor=2.0, group_size=3)


def test_bnpo_at_one_and_one_is_the_mean_baseline_and_at_three_halves_pi_eighths_of_grpo():
    options = {"policy": TWO, "reward": RIGHT_OF_TWO, "group_size": 3, "starts": (0, 1)}
    at = lambda x: term(total, functools.partial(beta_normalised, alpha=x, beta=x))
    same_in_every_batch(at(1.0), term(total, mean_baseline), **options)
    same_in_every_batch(at(1.5), term(total, grpo), factor=math.pi / 8, **options)


def test_bnpo_keeps_the_direction_of_every_start_and_weighs_them_by_the_batch():
    rewards = {"x": RIGHT_OF_TWO}
    found = expected_gradient(TWO, [term(total, beta_normalised)], rewards, group_size=3, starts=(0, 1)).view(2, -1)
    exact = exact_gradient(TWO, RIGHT_OF_TWO, starts=(0, 1)).view(2, -1)
    scales = [(found[i] @ exact[i]) / (exact[i] @ exact[i]) for i in range(2)]
    for i in range(2):
        torch.testing.assert_close(found[i], scales[i] * exact[i], rtol=0, atol=1e-9)
    assert abs(float(scales[0] - scales[1])) > 1e-3


def test_bnpo_of_one_start_is_the_mean_baseline():
    same_in_every_batch(term(total, beta_normalised), term(total, mean_baseline), group_size=3)


def test_unlikeliness_of_strength_zero_is_grpo():
    path = [functools.partial(unlikeliness, strength=0.0), total, grpo]
    same_in_every_batch(term(*path), term(total, grpo), group_size=3)


def test_unlikeliness_moves_mass_from_likely_to_unlikely_successes_where_grpo_is_silent():
    everything_right = torch.ones(7, dtype=F64)
    silent = expected_gradient(POLICY, [term(total, grpo)], {"x": everything_right}, group_size=3)
    assert silent.abs().max() == 0
    push = expected_gradient(POLICY, [term(unlikeliness, total, grpo)], {"x": everything_right}, group_size=3)
    p = POLICY.probabilities()
    mean_logp = (p.log() / POLICY.tree.length).detach()
    likely = torch.autograd.grad((p * mean_logp).sum(), POLICY.logits)[0].flatten()
    assert float(push @ likely) < -1e-3


def test_unlikeliness_climbs_no_success_rate_alone():
    found = bias(POLICY, [term(unlikeliness, total, grpo)], {"x": RIGHT}, RIGHT, group_size=3)
    assert 0.02 < found.residual < 0.6
    assert found.cosine > 0.8
