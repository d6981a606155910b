"""What a correlation with the truth guarantees (card correlated-proxies), over the exact occupancies of small processes."""

import functools
import math

import pytest
import torch

from payoff.audit.correlated import least_gain, paper_gain, sister_gain
from payoff.credit.returns import total
from payoff.exact import expected_gradient
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular, kl_divergence
from payoff.signals.chi2 import chi2_penalty
from payoff.tasks.mdp import MDP, random_mdp

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def measured(mdp: MDP, base: torch.Tensor, policy: torch.Tensor, truth: torch.Tensor, proxy: torch.Tensor):
    """Gains in standard deviations under the base occupancy, correlation there, and chi2 of the occupancies."""
    mu, nu = mdp.occupancy(base), mdp.occupancy(policy)
    mean = lambda x: (mu * x).sum()
    scale = [(mean(x.square()) - mean(x).square()).sqrt() for x in (truth, proxy)]
    gain = [float(((nu - mu) * x).sum() / s) for x, s in zip((truth, proxy), scale, strict=True)]
    r = float((mean(truth * proxy) - mean(truth) * mean(proxy)) / (scale[0] * scale[1]))
    return *gain, r, float((nu.square() / mu).sum() - 1)


@pytest.mark.parametrize("seed", range(12))
def test_the_bounds_hold_for_random_processes_policies_and_proxies(seed):
    mdp = random_mdp(5, 3, seed=seed)
    truth = normal(5, 3, seed=seed + 100)
    proxy = truth + (0.3 + seed % 4) * normal(5, 3, seed=seed + 200)
    base = normal(5, 3, seed=seed + 300).softmax(1)
    for policy in (mdp.soft_optimum(0.3, proxy).policy, normal(5, 3, seed=seed + 400).softmax(1)):
        true_gain, proxy_gain, r, chi2 = measured(mdp, base, policy, truth, proxy)
        assert chi2 >= 0
        assert least_gain(proxy_gain, r, chi2) <= true_gain + 1e-9
        assert sister_gain(proxy_gain, r, chi2) <= least_gain(proxy_gain, r, chi2) + 1e-9
        if r > 0:
            assert paper_gain(proxy_gain, r, chi2) <= least_gain(proxy_gain, r, chi2) + 1e-9


def test_with_full_correlation_the_bound_is_the_gain():
    mdp, truth = random_mdp(5, 3), normal(5, 3)
    base, policy = mdp.uniform(), normal(5, 3, seed=4).softmax(1)
    true_gain, proxy_gain, r, chi2 = measured(mdp, base, policy, truth, 3 * truth - 1)
    assert r == pytest.approx(1)
    for bound in (paper_gain, sister_gain, least_gain):
        assert bound(proxy_gain, min(r, 1.0), chi2) == pytest.approx(true_gain, abs=1e-6)


def test_no_bound_in_r_alone_is_better_than_the_least_gain():
    # a policy that is the base plus a tilt along proxy and a tilt against the rest attains it
    mdp, base = random_mdp(4, 3, seed=2), torch.full((4, 3), 1 / 3, dtype=F64)
    policy = normal(4, 3, seed=7).softmax(1)
    mu, nu = mdp.occupancy(base), mdp.occupancy(policy)
    tilt = nu / mu - 1
    proxy = normal(4, 3, seed=8)
    unit = lambda x: (x - (mu * x).sum()) / ((mu * x.square()).sum() - (mu * x).sum().square()).sqrt()
    proxy = unit(proxy)
    left = tilt - (mu * tilt * proxy).sum() * proxy
    for r in (0.2, 0.9):
        truth = r * proxy - math.sqrt(1 - r * r) * unit(left)
        true_gain, proxy_gain, found, chi2 = measured(mdp, base, policy, truth, proxy)
        assert found == pytest.approx(r)
        assert true_gain == pytest.approx(least_gain(proxy_gain, r, chi2), abs=1e-9)


def test_optimising_a_correlated_proxy_can_cost_truth_and_where_the_penalised_objective_rises_it_does_not():
    # most of the time both agree; one rare action is worth 10 to the proxy and -10 in truth
    transition = torch.ones(1, 20, 1, dtype=F64)
    base = torch.full((1, 20), 0.9998 / 19, dtype=F64)
    base[0, -1] = 0.0002
    truth = torch.linspace(0, 1, 20, dtype=F64)[None].clone()
    proxy = truth.clone()
    truth[0, -1], proxy[0, -1] = -10.0, 10.0
    mdp = MDP(transition, torch.zeros(1, 20, 1, dtype=F64), torch.ones(1, dtype=F64), 0.9)
    hacked = mdp.optimum(proxy).policy
    true_gain, proxy_gain, r, chi2 = measured(mdp, base, hacked, truth, proxy)
    assert r > 0.5
    assert sister_gain(proxy_gain, r, chi2) < 0  # no guarantee that far out
    assert proxy_gain > 5
    assert true_gain < -5
    # a tilt by the proxy has chi2 = P^2, so P - sqrt((1 - r^2) chi2) = P (1 - sqrt(1 - r^2)) > 0: truth must gain, and does
    tilted = base * (1 + 0.3 * (proxy - (base * proxy).sum()))
    true_gain, proxy_gain, r, chi2 = measured(mdp, base, tilted, truth, proxy)
    assert chi2 == pytest.approx(proxy_gain**2)
    assert 0 < paper_gain(proxy_gain, r, chi2) <= true_gain


def test_chi2_is_at_least_the_exponential_of_kl_minus_one_and_zero_at_the_base():
    p, q = (Tabular(3, 3, stop=2, spread=1.0, seed=s).probabilities().detach() for s in (1, 2))
    chi2 = float((p.square() / q).sum() - 1)
    assert chi2 >= math.expm1(float(kl_divergence(p, q)))
    assert float((p.square() / p).sum() - 1) == pytest.approx(0, abs=1e-12)


# --- the penalty as a reward, on the tree

POLICY, REFERENCE = Tabular(3, 2, stop=2, spread=1.0, seed=1), Tabular(3, 2, stop=2, spread=1.0, seed=2)


def chi2_of_policy() -> torch.Tensor:
    return (POLICY.probabilities().square() / REFERENCE.probabilities().detach()).sum() - 1


def pushed(signal) -> torch.Tensor:
    term = Term(weigh({"chi2": [total]}), policy_gradient, sequence_sum)
    return expected_gradient(POLICY, [term], signal, group_size=1, reference=REFERENCE)


def test_paid_as_a_reward_it_descends_half_of_chi2():
    # rho is a constant there: sum p rho grad log p = sum rho grad p, and chi2 = sum p rho has twice that
    whole = -torch.autograd.grad(chi2_of_policy(), POLICY.logits)[0].flatten()
    found = pushed(functools.partial(chi2_penalty, form="chi2"))
    assert whole.abs().max() > 1e-2
    torch.testing.assert_close(found, whole / 2, rtol=0, atol=1e-9)


def test_divided_by_the_root_of_chi2_it_descends_the_root_exactly():
    root = chi2_of_policy().sqrt()
    found = pushed(functools.partial(chi2_penalty, form="chi2")) / float(root.detach())
    torch.testing.assert_close(found, -torch.autograd.grad(root, POLICY.logits)[0].flatten(), rtol=0, atol=1e-9)
