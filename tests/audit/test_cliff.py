"""How optimal policies turn with the reward (card policy-cliff): bounds on random processes, cliffs at ties."""

import math

import pytest
import torch

from payoff.audit.cliff import cliff, policy_turn, soft_slope
from payoff.tasks.mdp import MDP, random_mdp

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def two_arms(*paid: float) -> MDP:
    """One state, one action per number; with discount 0 nothing follows."""
    n = len(paid)
    reward = torch.tensor(paid, dtype=F64).view(1, n, 1)
    return MDP(torch.ones(1, n, 1, dtype=F64), reward, torch.ones(1, dtype=F64), 0.0)


@pytest.mark.parametrize("seed", range(6))
def test_optimal_values_move_by_at_most_the_change_over_one_minus_the_discount(seed):
    mdp = random_mdp(5, 3, seed=seed)
    change = 0.3 * normal(5, 3, seed=seed + 10)
    moved = (mdp.optimum(mdp.expected_reward() + change).q - mdp.optimum().q).abs().max()
    assert float(moved) <= float(change.abs().max()) / (1 - mdp.discount) + 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_within_the_radius_the_greedy_policy_does_not_turn(seed):
    mdp = random_mdp(4, 3, seed=seed)
    found = cliff(mdp)
    assert found.radius > 0
    for draw in range(20):
        change = normal(4, 3, seed=100 * seed + draw).sign() * found.radius * 0.999
        assert policy_turn(mdp, change) == 0


def test_the_radius_is_attained_by_a_bandit():
    arms = two_arms(1.0, 0.4, 0.0)
    assert cliff(arms).radius == pytest.approx(0.3)
    assert policy_turn(arms, torch.tensor([[-0.299, 0.299, 0.0]], dtype=F64)) == 0
    assert policy_turn(arms, torch.tensor([[-0.301, 0.301, 0.0]], dtype=F64)) == 1
    # the same for all actions changes nothing, however large
    assert policy_turn(arms, torch.full((1, 3), 50.0, dtype=F64)) == 0


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0])
def test_at_a_tie_any_change_turns_the_greedy_policy_and_the_soft_one_by_its_size_over_the_temperature(size):
    arms, temperature = two_arms(0.5, 0.5), 0.2
    assert cliff(arms)[1:] == (1, 0.0)
    nudge = torch.tensor([[size, 0.0]], dtype=F64)
    assert policy_turn(arms, nudge) == 0.5  # from half and half to one of them
    assert policy_turn(two_arms(0.5 - size, 0.5), 2 * nudge) == 1.0  # across the tie
    expected = abs(1 / (1 + math.exp(-size / temperature)) - 0.5)
    assert policy_turn(arms, nudge, temperature=temperature) == pytest.approx(expected, abs=1e-12)
    assert 2 * expected <= soft_slope(arms, temperature) * size


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_soft_policies_turn_no_faster_than_their_slope(seed, temperature):
    mdp = random_mdp(5, 3, seed=seed)
    for scale in (1e-3, 0.1, 1.0):
        change = scale * normal(5, 3, seed=seed + 50)
        turn = 2 * policy_turn(mdp, change, temperature=temperature)
        assert turn <= soft_slope(mdp, temperature) * float(change.abs().max()) + 1e-9


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_the_price_of_softness_is_at_most_the_entropy_of_the_uniform_policy(temperature):
    mdp = random_mdp(5, 3, seed=3)
    soft = mdp.soft_optimum(temperature).policy
    price = float((mdp.optimum().v - mdp.values(soft).v).max())
    assert 0 <= price <= temperature * math.log(3) / (1 - mdp.discount)


def test_several_rewards_weighted_by_state_act_as_the_one_they_add_up_to():
    mdp = random_mdp(4, 2)
    parts, weights = normal(3, 4, 2, seed=1), normal(3, 4, seed=2).softmax(0)
    effective = (weights[:, :, None] * parts).sum(0)
    split = [0.5 * (parts + 7), 0.5 * (parts - 7)]
    again = sum((weights[:, :, None] * part).sum(0) for part in split)
    torch.testing.assert_close(cliff(mdp, effective).gap, cliff(mdp, again).gap, rtol=0, atol=1e-9)


def test_one_action_has_no_cliff():
    assert cliff(two_arms(1.0)).radius == math.inf
    with pytest.raises(ValueError, match="temperature must be > 0"):
        soft_slope(two_arms(1.0), 0.0)
    with pytest.raises(ValueError, match="at least 0"):
        policy_turn(two_arms(1.0), torch.zeros(1, 1, dtype=F64), temperature=-1.0)
