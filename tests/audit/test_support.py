"""Support before and after tuning (card invisible-leash): the rates, pass@k, and what an on-policy update cannot reach."""

import itertools
import math

import pytest
import torch

from payoff.advantages.group import grpo, leave_one_out
from payoff.audit.support import Support, detectable, success_within, support_cells
from payoff.credit.returns import total
from payoff.exact import expected_gradient
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular

F64 = torch.float64


def test_rates_of_a_worked_example():
    # 60 kept, 5 gained, 15 lost, 20 never
    found = Support(60, 5, 15, 20)
    assert found.retention == pytest.approx(0.8)
    assert found.discovery == pytest.approx(1 / 13)
    assert found.dynamic == pytest.approx(2 * 0.8 / 13 / (0.8 + 1 / 13))
    assert found.net_change == pytest.approx(-10 / 80)


def test_the_same_model_keeps_everything_and_gains_nothing():
    some = torch.tensor([True, False, True])
    found = support_cells(some, some)
    assert (found.retention, found.discovery, found.net_change) == (1, 0, 0)


def test_empty_denominators_have_declared_values():
    found = support_cells(torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool))
    assert (found.retention, found.discovery, found.dynamic, found.net_change) == (1, 0, 0, 0)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_success_within_k_is_unbiased(k):
    n, p = 5, 0.3
    expected = 0.0
    for tries in itertools.product((0, 1), repeat=n):
        chance = math.prod(p if t else 1 - p for t in tries)
        expected += chance * float(success_within(torch.tensor([sum(tries)]), torch.tensor([n]), k)[0])
    assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_what_is_as_rare_as_the_threshold_is_missed_as_often_as_said():
    assert (1 - detectable(100, missed=0.1)) ** 100 == pytest.approx(0.1)
    assert detectable(8192) == pytest.approx(3.66e-4, rel=1e-2)


@pytest.mark.parametrize("advantage", [leave_one_out, grpo])
def test_what_the_policy_never_writes_it_never_learns_to_write(advantage):
    logits = torch.tensor([[0.3, -torch.inf, 0.1]], dtype=F64)
    policy = Tabular(3, 1, logits=logits)
    reward = torch.tensor([0.0, 1.0, 0.2], dtype=F64)  # the best answer has probability 0
    term = Term(weigh({"x": [total, advantage]}), policy_gradient, sequence_sum)
    gradient = expected_gradient(policy, [term], {"x": reward}, group_size=2)
    assert gradient[1] == 0
    assert gradient.isfinite().all()
    assert policy.optimum(reward, 0.01).probabilities()[1] == 0


def test_the_optimum_for_vanishing_penalty_is_the_base_restricted_to_what_is_right():
    base = Tabular(3, 2, stop=2, spread=1.0, seed=1)
    p = base.probabilities().detach()
    right = torch.tensor([1, 0, 0, 1, 0, 0, 1], dtype=F64)
    restricted = p * right / (p @ right)
    torch.testing.assert_close(base.optimum(right, 1e-2).probabilities().detach(), restricted, rtol=0, atol=1e-9)
    # of all policies that are always right it is the nearest to the base: KL -log p(right)
    kl = float((restricted[right > 0] * (restricted[right > 0] / p[right > 0]).log()).sum())
    assert kl == pytest.approx(-math.log(float(p @ right)))


def test_entropy_falls_only_as_a_tendency():
    def entropy(p: torch.Tensor) -> float:
        return float(torch.special.entr(p).sum())

    # published as H[pi] <= H[q]: false where the base is concentrated on what is wrong
    base, right = torch.tensor([0.9, 0.05, 0.05], dtype=F64), torch.tensor([0.0, 1.0, 1.0], dtype=F64)
    restricted = base * right / (base @ right)
    assert entropy(restricted) > entropy(base)
    # true where what is right is no flatter than the whole, as where the base spreads evenly
    even = torch.full((3,), 1 / 3, dtype=F64)
    assert entropy(even * right / (even @ right)) < entropy(even)


def test_contradictory_counts_are_refused():
    with pytest.raises(ValueError, match="1 <= k <= tries"):
        success_within(torch.tensor([1]), torch.tensor([3]), 4)
    with pytest.raises(ValueError, match="right <= tries"):
        success_within(torch.tensor([4]), torch.tensor([3]), 1)
    with pytest.raises(ValueError, match="missed"):
        detectable(10, missed=1.0)
