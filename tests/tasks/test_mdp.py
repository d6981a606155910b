"""What the small decision processes claim to compute exactly, against other ways of computing it."""

import pytest
import torch

from payoff.tasks.mdp import MDP, chain_mdp, gridworld, random_mdp

F64 = torch.float64
WORLD = random_mdp(4, 3, seed=1)


def policy_of(mdp: MDP, seed: int = 0) -> torch.Tensor:
    return torch.randn(mdp.states, mdp.actions, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_values_satisfy_their_definition_as_a_sum_over_time():
    policy = policy_of(WORLD).softmax(1)
    moves = torch.einsum("sa,sat->st", policy, WORLD.transition)
    reward, v, power = (policy * WORLD.expected_reward()).sum(1), torch.zeros(4, dtype=F64), torch.eye(4, dtype=F64)
    for t in range(400):
        v, power = v + 0.9**t * power @ reward, power @ moves
    torch.testing.assert_close(WORLD.values(policy).v, v, rtol=0, atol=1e-10)


def test_worth_is_occupancy_times_reward_and_occupancies_add_up_to_one():
    policy = policy_of(WORLD).softmax(1)
    occupancy = WORLD.occupancy(policy)
    assert abs(float(occupancy.sum()) - 1) < 1e-12
    torch.testing.assert_close((occupancy * WORLD.expected_reward()).sum() / 0.1, WORLD.worth(policy), rtol=0, atol=1e-10)
    torch.testing.assert_close(occupancy / occupancy.sum(1, keepdim=True), policy)


def test_the_policy_gradient_is_the_derivative_of_the_worth():
    logits = policy_of(WORLD).requires_grad_()
    (slope,) = torch.autograd.grad(WORLD.worth(logits.softmax(1)), logits)
    torch.testing.assert_close(WORLD.policy_gradient(logits.detach()), slope, rtol=0, atol=1e-11)


def test_the_optimum_beats_every_deterministic_policy_and_is_one():
    best = max(float(WORLD.worth(policy)) for policy in WORLD.deterministic_policies())
    found = WORLD.optimum()
    assert abs(float(WORLD.start @ found.v) - best) < 1e-10
    assert abs(float(WORLD.worth(found.policy)) - best) < 1e-10
    lowest = min(float(WORLD.worth(policy)) for policy in WORLD.deterministic_policies())
    assert abs(float(WORLD.spread()) - (best - lowest)) < 1e-10


def test_equally_good_actions_share_and_forbidden_ones_are_not_taken():
    mdp = chain_mdp(3, slip=0.5)  # both actions do the same
    assert mdp.optimum().policy.tolist() == [[0.5, 0.5]] * 3
    assert mdp.best_actions().all()
    only_back = torch.tensor([[True, False]] * 3)
    assert chain_mdp(3).optimum(among=only_back).v.tolist() == [0.0, 0.0, 0.0]
    assert chain_mdp(3).optimum(among=only_back).q[1].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("with_reference", [False, True])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_soft_optimum_is_a_fixed_point_and_nothing_near_it_is_better(with_reference, temperature):
    reference = policy_of(WORLD, 3).softmax(1) if with_reference else None
    found = WORLD.soft_optimum(temperature, reference=reference)
    log_prior = torch.zeros(4, 3, dtype=F64) if reference is None else reference.log()
    torch.testing.assert_close(found.v, temperature * (log_prior + found.q / temperature).logsumexp(1), rtol=0, atol=1e-10)

    def objective(logits: torch.Tensor) -> torch.Tensor:
        policy = logits.softmax(1)
        return WORLD.worth(policy, WORLD.expected_reward() - temperature * (logits.log_softmax(1) - log_prior))

    logits = found.policy.log().requires_grad_()
    value = objective(logits)
    assert abs(float(value.detach()) - float(WORLD.start @ found.v)) < 1e-9
    assert float(torch.autograd.grad(value, logits)[0].abs().max()) < 1e-9
    assert all(float(objective(logits.detach() + 0.1 * policy_of(WORLD, seed))) < float(value.detach()) for seed in range(5, 9))


def test_a_cold_soft_optimum_is_the_optimum_and_a_hot_one_the_reference():
    torch.testing.assert_close(WORLD.soft_optimum(1e-3).policy, WORLD.optimum().policy, rtol=0, atol=1e-6)
    reference = policy_of(WORLD).softmax(1)
    torch.testing.assert_close(WORLD.soft_optimum(1e6, reference=reference).policy, reference, rtol=0, atol=1e-4)


def test_an_action_the_reference_never_takes_is_never_taken():
    reference = torch.tensor([[0.5, 0.5, 0.0]] * 4, dtype=F64)
    found = WORLD.soft_optimum(0.5, reference=reference)
    assert (found.policy[:, 2] == 0).all()
    assert found.v.isfinite().all()


def test_in_a_gridworld_the_way_round_the_wall_takes_four_steps():
    world = gridworld()
    assert world.states == 9
    # S..   two ways of four moves; the one past X on the right passes through it, so only the left one is left
    # .#X   four moves to G, and the fourth pays 1
    # ..G
    assert abs(float(world.start @ world.optimum().v) - 0.9**3) < 1e-12
    assert world.optimum().policy[0].tolist() == [0.0, 0.0, 1.0, 0.0]


def test_slipping_leads_aside_half_to_either_side():
    world = gridworld(("...", ".S.", "..."), slip=0.2)
    assert world.transition[4, 0, [1, 3, 5, 7]].tolist() == pytest.approx([0.8, 0.1, 0.1, 0.0])


def test_drawn_successors_come_as_often_as_the_transition_says():
    rng = torch.Generator().manual_seed(0)
    state, action = torch.full((20_000,), 2), torch.full((20_000,), 1)
    share = torch.bincount(WORLD.next_states(state, action, rng), minlength=4) / 20_000
    torch.testing.assert_close(share.to(F64), WORLD.transition[2, 1], rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MDP(WORLD.transition, WORLD.reward, WORLD.start, 1.0), "discount must lie in"),
        (lambda: MDP(WORLD.transition * 2, WORLD.reward, WORLD.start, 0.9), "add up to 1"),
        (lambda: chain_mdp(1), "length must be at least 2"),
        (lambda: gridworld(("..",)), "no S"),
        (lambda: random_mdp(3, 2, successors=4), "successors must lie in"),
        (lambda: WORLD.soft_optimum(0.0), "temperature must be > 0"),
        (lambda: WORLD.optimum(among=torch.zeros(4, 3, dtype=torch.bool)), "no action is allowed in state 0"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
