"""Best-of-n against the KL-regularised optimum (card alignment-asymptotics), enumerated."""

import math

import pytest
import torch

from payoff.policies.tabular import Tabular, kl_divergence

F64 = torch.float64
BASE = Tabular(3, 3, stop=2, spread=1.0, seed=1)
P = BASE.probabilities().detach()
REWARD = torch.randn(15, generator=torch.Generator().manual_seed(0), dtype=F64)
TIED = REWARD.round()


def tilt(p: torch.Tensor, reward: torch.Tensor, beta: float) -> torch.Tensor:
    return (p.log() + reward / beta).softmax(0)


def random_policies(n: int):
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(15, generator=rng, dtype=F64).mul(1.5).softmax(0) for _ in range(n)]


@pytest.mark.parametrize("beta", [0.3, 1.0, 5.0])
def test_any_policy_is_as_far_from_the_optimum_as_it_falls_short_of_it(beta):
    # KL(pi || phi) = KL(pi || p) - KL(phi || p) + (E_phi r - E_pi r) / beta: with no more KL and as much reward it is phi
    phi = tilt(P, REWARD, beta)
    for pi in [*random_policies(5), BASE.best_of_n(REWARD, 4).detach()]:
        short = float((phi - pi) @ REWARD) / beta
        right = float(kl_divergence(pi, P) - kl_divergence(phi, P)) + short
        assert float(kl_divergence(pi, phi)) == pytest.approx(right, abs=1e-12)


def test_no_policy_with_the_same_kl_has_more_reward():
    for pi in [*random_policies(20), BASE.best_of_n(REWARD, 2).detach(), BASE.best_of_n(REWARD, 8).detach()]:
        room, low, high = float(kl_divergence(pi, P)), 1e-3, 1e3
        for _ in range(200):
            beta = math.sqrt(low * high)
            low, high = (low, beta) if float(kl_divergence(tilt(P, REWARD, beta), P)) < room else (beta, high)
        assert float(tilt(P, REWARD, high) @ REWARD) >= float(pi @ REWARD) - 1e-9


def test_reward_grows_with_the_inverse_penalty_at_the_rate_of_its_variance():
    for x in (0.5, 1.0, 3.0):
        mean = lambda x: float(tilt(P, REWARD, 1 / x) @ REWARD)
        phi = tilt(P, REWARD, 1 / x)
        variance = float(phi @ REWARD.square() - (phi @ REWARD).square())
        assert (mean(x + 1e-5) - mean(x - 1e-5)) / 2e-5 == pytest.approx(variance, abs=1e-8)


def test_the_limits_of_both_families():
    torch.testing.assert_close(tilt(P, REWARD, 1e9), P)
    torch.testing.assert_close(BASE.best_of_n(REWARD, 1).detach(), P)
    best = torch.zeros(15, dtype=F64)
    best[REWARD.argmax()] = 1
    torch.testing.assert_close(tilt(P, REWARD, 1e-3), best)
    torch.testing.assert_close(BASE.best_of_n(REWARD, 5000).detach(), best, rtol=0, atol=1e-6)


@pytest.mark.parametrize("reward", [REWARD, TIED], ids=["distinct", "tied"])
@pytest.mark.parametrize("n", [2, 4, 32])
def test_the_kl_of_best_of_n_is_below_its_formula_and_equal_to_it_only_in_the_continuous_limit(reward, n):
    formula = math.log(n) - (n - 1) / n
    found = float(kl_divergence(BASE.best_of_n(reward, n).detach(), P))
    assert found < formula - 1e-3
    # many answers, each rare and none tied: the CDF is nearly uniform
    fine = Tabular(2, 12)
    order = torch.arange(4096, dtype=F64)
    limit = float(kl_divergence(fine.best_of_n(order, n).detach(), fine.probabilities().detach()))
    assert formula - 0.02 < limit < formula


def test_per_symbol_the_two_families_approach_each_other_as_answers_grow():
    # symbols drawn alike and independently, rewards that add up: the answer's count of each symbol says everything
    p, r = torch.tensor([0.5, 0.3, 0.2], dtype=F64), torch.tensor([0.0, 0.7, 1.0], dtype=F64)
    delta, gaps, divergences = 0.15, [], []
    low, high = 1e-2, 1e2
    for _ in range(200):
        beta = math.sqrt(low * high)
        low, high = (low, beta) if float(kl_divergence(tilt(p, r, beta), p)) < delta else (beta, high)
    symbol = tilt(p, r, high)
    for m in (4, 8, 12, 24, 48):
        counts = torch.tensor([(i, j, m - i - j) for i in range(m + 1) for j in range(m + 1 - i)], dtype=F64)
        ways = math.lgamma(m + 1) - torch.lgamma(counts + 1).sum(1)
        base, best = ((ways + counts @ q.log()).exp() for q in (p, symbol))
        reward = counts @ r
        order = reward.round(decimals=9).unique(return_inverse=True)[1]
        mass = torch.zeros(int(order.max()) + 1, dtype=F64).index_add(0, order, base)
        reached = torch.cat([torch.zeros(1, dtype=F64), mass.cumsum(0)]).clamp(0, 1)
        n = math.exp(m * delta)
        level = reached[1:] ** n - reached[:-1] ** n
        of_n = base * (level / mass)[order]
        gaps.append(abs(float(of_n @ reward - best @ reward)) / m)
        divergences.append(float(kl_divergence(of_n, best)) / m)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.03  # .126 at four symbols
    assert divergences == sorted(divergences, reverse=True)
    assert divergences[-1] < 0.02  # .055 at four
