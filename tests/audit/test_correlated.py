"""Correlated proxies: bounds that hold for every policy and are attained, and correlations as the definition has them."""

import math

import pytest
import torch

from payoff.audit.correlated import MEASURES, best_of_n_chi2, correlated_proxies, least_gain, paper_gain, sister_gain

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def measured(scores, gold, **options):
    prompts, size = scores.shape
    valid, group = torch.ones(prompts * size, dtype=torch.bool), torch.arange(prompts).repeat_interleave(size)
    truth = None if gold is None else gold.reshape(-1)
    return {m.name: m for m in correlated_proxies(scores.reshape(-1), valid, truth, group, **options)}


def random_case(seed: int):
    """A base policy over six answers, another policy, proxy and gold standardised under the base."""
    g = torch.Generator().manual_seed(seed)
    base, policy = (torch.softmax(2 * torch.randn(6, generator=g, dtype=F64), 0) for _ in range(2))
    numbers = []
    for x in torch.randn(2, 6, generator=g, dtype=F64):
        x = x - (base * x).sum()
        numbers.append(x / (base * x * x).sum().sqrt())
    proxy, gold = numbers
    chi2 = float((policy**2 / base).sum()) - 1
    return float((policy * proxy).sum()), float((base * proxy * gold).sum()), chi2, float((policy * gold).sum())


@pytest.mark.parametrize("seed", range(40))
def test_no_policy_gains_less_than_any_of_the_bounds_and_ours_is_the_tightest(seed):
    proxy, r, chi2, gold = random_case(seed)
    bound = least_gain(proxy, r, chi2)
    assert gold >= bound - 1e-9
    assert bound >= sister_gain(proxy, r, chi2) - 1e-9
    if r > 0:
        assert bound >= paper_gain(proxy, r, chi2) - 1e-9


def test_some_gold_gains_exactly_the_bound():
    # Base and policy over four answers; the rest that hurts most lies along the policy's ratio, freed of the proxy.
    base, policy = torch.full((4,), 0.25, dtype=F64), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
    proxy = torch.tensor([1.0, -1, -1, 1], dtype=F64)
    ratio = policy / base - 1
    rest = ratio - (base * ratio * proxy).sum() * proxy
    rest = -rest / (base * rest * rest).sum().sqrt()
    gold = 0.6 * proxy + 0.8 * rest
    chi2 = float((policy**2 / base).sum()) - 1
    assert float((policy * gold).sum()) == pytest.approx(least_gain(float((policy * proxy).sum()), 0.6, chi2))


def test_a_perfectly_correlated_proxy_is_gold():
    for bound in (least_gain, paper_gain, sister_gain):
        assert bound(0.7, 1.0, 9.0) == 0.7
    with pytest.raises(ValueError, match="r must be > 0"):
        paper_gain(1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="chi2 >= 0"):
        least_gain(1.0, 0.5, -1.0)


def test_chi2_of_best_of_n_is_that_of_its_density():
    u = (torch.arange(200_000, dtype=F64) + 0.5) / 200_000
    for n in (1, 2, 9):
        assert best_of_n_chi2(n) == pytest.approx(float((n * u ** (n - 1)).square().mean()) - 1, abs=1e-6)


def test_the_base_correlation_is_the_one_within_prompts_whatever_prompts_add():
    gold, noise, offset = normal(500, 8), normal(500, 8, seed=1), 100 * normal(500, 1, seed=2)
    found = measured(0.6 * gold + 0.8 * noise + offset, gold)["base-correlation"].estimate
    x, y = (v - v.mean(1, keepdim=True) for v in (0.6 * gold + 0.8 * noise, gold))
    assert found.value == pytest.approx(float((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()))
    assert found.low < 0.6 < found.high
    assert -1 < found.low < found.high < 1


def test_the_penalty_coefficient_is_what_the_reward_does_not_know():
    gold, noise = normal(800, 8), normal(800, 8, seed=1)
    found = measured(3 * gold + 4 * noise, gold)["penalty-coefficient"].estimate  # sd 5, r = 0.6
    assert found.low < 5 * 0.8 < found.high


def test_a_proxy_whose_top_is_hacked_turns_negative_under_optimisation_and_an_honest_one_stays():
    gold = normal(300, 16)
    trick = (torch.rand(300, 16, generator=torch.Generator().manual_seed(3)) < 0.05).double()
    bad, good = measured(gold + 5 * trick, gold - 4 * trick), measured(gold + 0.3 * normal(300, 16, seed=4), gold)
    assert (bad["optimised-correlation"].result, good["optimised-correlation"].result) == ("fails", "holds")
    assert bad["correlation-decay"].estimate.high < 0
    assert good["guaranteed-gain"].estimate.low > 0
    assert bad["guaranteed-gain"].estimate.value == pytest.approx(0)


def test_correlation_under_selection_is_that_of_the_weighted_sample():
    scores, gold = normal(40, 4, seed=5), normal(40, 4, seed=6)
    series = measured(scores, gold)["optimised-correlation"].series
    assert series["n"] == [1.0, 2.0]
    # Best of two among four: weights 0, 1/6, 2/6, 3/6 by rank.
    w = torch.tensor([0.0, 1, 2, 3], dtype=F64)[scores.argsort(1).argsort(1)] / 6
    x, y = (v - (w * v).sum(1, keepdim=True) for v in (scores, gold))
    cov = lambda a, b: float((w * a * b).sum())
    assert series["correlation"][1] == pytest.approx(cov(x, y) / math.sqrt(cov(x, x) * cov(y, y)))


def test_the_guarantee_never_exceeds_what_gold_gains():
    gold = normal(400, 8)
    series = measured(gold + normal(400, 8, seed=7), gold)["guaranteed-gain"].series
    assert all(least <= gain + 0.02 for least, gain in zip(series["least_gain"], series["gold_gain"], strict=True))
    assert series["least_gain"][0] == 0


def test_degenerate_samples_say_why():
    for scores, gold in (
        (normal(5, 4), None),
        (normal(5, 1), normal(5, 1)),
        (torch.ones(5, 4, dtype=F64), normal(5, 4)),
        (normal(5, 4), torch.ones(5, 4, dtype=F64)),
    ):
        found = measured(scores, gold)
        assert list(found) == list(MEASURES.asked)
        assert all(m.estimate is None and m.note for m in found.values())
    two = measured(normal(30, 2), normal(30, 2, seed=1))
    assert two["base-correlation"].estimate is not None
    assert two["optimised-correlation"].estimate is None


def test_worst_examples_pay_far_more_than_gold():
    rows = [{"prompt": "p", "response": str(i)} for i in range(8)]
    scores, gold = torch.arange(8, dtype=F64).reshape(1, 8), torch.arange(8, dtype=F64).reshape(1, 8).clone()
    gold[0, 6] = -9
    assert measured(scores, gold, rows=rows)["base-correlation"].examples[0]["response"] == "6"
