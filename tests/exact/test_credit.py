"""What each credit climbs, to 1e-9. Weights h(finished trajectory) - f(what came before the action) climb E[h]; no others do."""

import functools

import pytest
import torch

from payoff.advantages.baselines import subtract_values, token_rate_baseline
from payoff.advantages.group import leave_one_out
from payoff.credit.returns import immediate, lambda_return, return_to_go, total
from payoff.credit.soft_min import soft_min
from payoff.enumeration import paid
from payoff.exact import bias, compare, credit_gradient, exact_gradient, expected_gradient
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.shaping.bounding import clip_above, clip_delta, delta
from payoff.shaping.gating import gate
from payoff.trajectories import Channel

F64 = torch.float64
POLICY = Tabular(3, 3, stop=2, spread=1.0, seed=1)  # 15 sequences of 1 to 3 actions
LENGTH, EXISTS = POLICY.tree.length, POLICY.tree.exists


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def steps(policy: Tabular = POLICY, seed: int = 0) -> torch.Tensor:
    """A reward for every action that depends on nothing later, [L, T]."""
    table = normal(policy.tree.prefix_count * policy.tree.vocabulary, seed=seed)
    return torch.where(policy.tree.exists, table[policy.tree.edge], 0)


def credited(policy: Tabular, table: torch.Tensor, *path) -> torch.Tensor:
    """The expected gradient of one channel down a path, without any baseline."""

    def credit(traj) -> Channel:
        return weigh({"x": list(path)})(paid({"x": table})(traj), traj)

    return credit_gradient(policy, credit)


def bandit(policy: Tabular, table: torch.Tensor) -> torch.Tensor:
    """The gradient of sum over prefixes of E_{a ~ pi}[reward of a], the prefixes' own probabilities held fixed."""
    edge, p = policy.tree.edge[policy.tree.exists], policy.logits[0].softmax(1).flatten()
    reward = torch.zeros_like(p).index_put((edge,), table[policy.tree.exists])
    worth = policy.occupancy().detach() * (p * reward).view(-1, policy.tree.vocabulary).sum(1)
    return torch.autograd.grad(worth.sum(), policy.logits)[0].flatten()


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


# --- by time


@pytest.mark.parametrize("credit", [total, return_to_go])
def test_total_and_reward_to_go_climb_the_sum_of_rewards_that_know_nothing_later(credit):
    close(credited(POLICY, steps(), credit), exact_gradient(POLICY, steps()))


def test_reward_to_go_of_rewards_that_know_the_future_is_turned_and_total_is_not():
    knowing = torch.where(EXISTS, normal(len(LENGTH), 3), 0)
    close(credited(POLICY, knowing, total), exact_gradient(POLICY, knowing))
    assert compare(credited(POLICY, knowing, return_to_go), exact_gradient(POLICY, knowing)).residual > 0.1


def test_discounted_reward_to_go_climbs_the_discounted_sum_only_if_the_weight_is_discounted_too():
    discount, table = 0.6, steps()
    worth = table * discount ** torch.arange(3)
    plain = credited(POLICY, table, functools.partial(return_to_go, discount=discount))
    assert compare(plain, exact_gradient(POLICY, worth)).residual > 0.02

    def discounted(channel: Channel, traj) -> Channel:
        to_go = return_to_go(channel, traj, discount=discount)
        return Channel(to_go.value * discount ** torch.arange(traj.width), to_go.valid)

    close(credited(POLICY, table, discounted), exact_gradient(POLICY, worth))


def test_immediate_credit_is_a_bandit_at_every_prefix_and_not_the_sum():
    found = credited(POLICY, steps(), immediate)
    close(found, bandit(POLICY, steps()))
    assert compare(found, exact_gradient(POLICY, steps())).residual > 0.1


def test_with_steps_of_two_actions_immediate_credit_still_climbs_within_the_step():
    policy = Tabular(2, 4, spread=1.0, seed=2, step_length=2)
    first = torch.zeros(16, 4, dtype=F64)
    first[:, 1] = normal(16)[torch.arange(16) // 4]  # paid at the end of step 0, and depends on both its actions
    close(credited(policy, first, immediate), exact_gradient(policy, first))


# --- with a critic


def with_critic(values: torch.Tensor) -> Tabular:
    policy = Tabular(3, 3, stop=2, logits=POLICY.logits.detach(), critic=True)
    with torch.no_grad():
        policy.critic[0] = values
    return policy


def gae(policy: Tabular, table: torch.Tensor, trace: float) -> torch.Tensor:
    target = weigh({"x": [functools.partial(lambda_return, trace=trace), subtract_values]})
    term = Term(target, policy_gradient, sequence_sum)
    found = expected_gradient(policy, [term], {"x": table}, group_size=1)
    assert found[POLICY.logits.numel() :].abs().max() == 0  # the critic gets nothing from this term
    return found[: POLICY.logits.numel()]


@pytest.mark.parametrize("trace", [0.0, 0.5, 1.0])
def test_gae_is_unbiased_for_every_trace_with_a_perfect_critic(trace):
    perfect = with_critic(POLICY.state_values(steps()).detach())
    close(gae(perfect, steps(), trace), exact_gradient(POLICY, steps()))


def test_with_a_wrong_critic_only_trace_one_is_unbiased():
    wrong = with_critic(normal(POLICY.tree.prefix_count, seed=5))
    close(gae(wrong, steps(), 1.0), exact_gradient(POLICY, steps()))
    near, far = (compare(gae(wrong, steps(), trace), exact_gradient(POLICY, steps())).residual for trace in (0.95, 0.0))
    assert 0.005 < near < far


# --- by the worst step (card pure)


def soft_minimum(table: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    weight = torch.where(EXISTS, -table / temperature, -torch.inf).softmax(1)
    return (weight * torch.where(EXISTS, table, 0)).sum(1)


def test_total_credit_of_the_soft_minimum_climbs_it_and_reward_to_go_does_not():
    scores = steps().tanh()
    close(credited(POLICY, scores, soft_min, total), exact_gradient(POLICY, soft_minimum(scores)))
    # paid to go, what an earlier step was paid is missing; but its share depends on the steps to come
    found = compare(credited(POLICY, scores, soft_min, return_to_go), exact_gradient(POLICY, soft_minimum(scores)))
    assert 0.02 < found.residual < 0.9
    assert found.cosine > 0.5


def test_pure_is_its_reward_to_go_minus_the_rate_of_the_others_times_length():
    scores = steps().tanh()
    term = Term(weigh({"x": [soft_min, token_rate_baseline, return_to_go]}), policy_gradient, sequence_sum)
    found = expected_gradient(POLICY, [term], {"x": scores}, group_size=2)
    rate = float(POLICY.probabilities().detach() @ (soft_minimum(scores) / LENGTH))
    close(found, credited(POLICY, scores, soft_min, return_to_go) - rate * exact_gradient(POLICY, LENGTH.to(F64)))


# --- by differences (card pr-clip-delta)


def test_delta_to_go_is_the_steps_own_score_so_it_is_a_bandit_but_for_the_last_step():
    scores = steps(seed=2)
    kept = torch.where(torch.arange(3) < LENGTH[:, None] - 1, scores, 0)
    found = credited(POLICY, scores, delta, return_to_go)
    close(found, credited(POLICY, kept, immediate))
    assert compare(found, exact_gradient(POLICY, kept)).residual > 0.1


def test_the_total_of_delta_climbs_the_score_of_the_first_step_alone():
    scores = steps()
    close(credited(POLICY, scores, delta, total), exact_gradient(POLICY, torch.where(LENGTH > 1, scores[:, 0], 0)))
    bounded = (scores[:, 0] - 0.5).clamp(max=0)
    close(credited(POLICY, scores, clip_delta, total), exact_gradient(POLICY, torch.where(LENGTH > 1, bounded, 0)))


def test_clip_is_an_objective_of_its_own_and_is_climbed_exactly():
    bounded = torch.where(EXISTS, (steps() - 0.5).clamp(max=0), 0)
    close(credited(POLICY, steps(), clip_above, return_to_go), exact_gradient(POLICY, bounded))


def test_delta_pays_for_one_more_good_looking_step_and_clip_delta_does_not():
    # every step but the stop looks good (0.9); the expected gradient on the logit of stopping at once says what is paid
    scores = torch.where(EXISTS, torch.where(POLICY.tree.actions == 2, 0.0, 0.9), 0.0).to(F64)
    stop_at_once = 2  # the logit of the stop action at the empty prefix
    assert credited(POLICY, scores, delta, return_to_go)[stop_at_once] < -0.1
    assert credited(POLICY, scores, clip_delta, return_to_go)[stop_at_once].abs() < 1e-12


# --- progress of a prover (card pav)


def progress(prover: Tabular, outcome: torch.Tensor) -> torch.Tensor:
    """A^mu of every action of every sequence."""
    q, v = prover.q_values(outcome).detach(), prover.state_values(outcome).detach()
    edge = prover.tree.edge
    return torch.where(prover.tree.exists, q.flatten()[edge] - v[edge // prover.tree.vocabulary], 0)


def with_progress(prover: Tabular, outcome: torch.Tensor, alpha: float, credit) -> torch.Tensor:
    target = weigh({"outcome": [return_to_go, leave_one_out], "progress": [credit]}, mix={"outcome": 1.0, "progress": alpha})
    term = Term(target, policy_gradient, sequence_sum)
    return expected_gradient(POLICY, [term], {"outcome": outcome, "progress": progress(prover, outcome)}, group_size=2)


PROVERS = {
    "best of four": lambda r: POLICY.matching(POLICY.best_of_n(r, 4)),
    "uniform": lambda r: POLICY.uniform(),
    "another": lambda r: Tabular(3, 3, stop=2, spread=1.0, seed=9),
}


@pytest.mark.parametrize("name", PROVERS)
def test_progress_paid_as_a_reward_to_go_is_a_scaled_gradient_and_as_immediate_credit_another_direction(name):
    outcome, alpha = normal(len(LENGTH), seed=7), 3.0
    prover = PROVERS[name](outcome)
    # summed up to the end it is outcome - V^mu(prefix): the outcome again, and a baseline
    path = progress(prover, outcome)
    v = prover.state_values(outcome).detach()[POLICY.tree.edge // 3]
    torch.testing.assert_close(torch.where(EXISTS, path.flip(1).cumsum(1).flip(1), 0), torch.where(EXISTS, outcome[:, None] - v, 0))
    close(with_progress(prover, outcome, alpha, return_to_go), (1 + alpha) * exact_gradient(POLICY, outcome))
    found = with_progress(prover, outcome, alpha, immediate)
    close(found, exact_gradient(POLICY, outcome) + alpha * bandit(POLICY, path))
    assert compare(found, exact_gradient(POLICY, outcome)).residual > 0.05


def test_progress_of_the_policy_itself_is_a_no_op_even_as_immediate_credit():
    outcome, alpha = normal(len(LENGTH), seed=7), 3.0
    close(with_progress(POLICY, outcome, alpha, immediate), (1 + alpha) * exact_gradient(POLICY, outcome))


# --- gates (card g-ra)


def test_gated_step_rewards_are_climbed_by_total_credit_and_turned_by_reward_to_go():
    correct = (torch.arange(len(LENGTH)) % 3 == 0).to(F64)
    tables = {"correct": correct, "steps": steps()}
    worth = steps() * correct[:, None]

    def through(credit):
        return credit_gradient(POLICY, lambda traj: credit(gate(paid(tables)(traj), traj)["steps"], traj))

    close(through(total), exact_gradient(POLICY, worth))
    # whether the gate opens is known only at the end, so leaving out what was paid before is no baseline
    assert compare(through(return_to_go), exact_gradient(POLICY, worth)).residual > 0.05


# --- mixes


def test_channels_down_paths_of_their_own_climb_the_weighted_sum():
    outcome, process = normal(len(LENGTH), seed=3), steps(seed=4)
    target = weigh({"o": [total, leave_one_out], "p": [return_to_go]}, mix={"o": 0.5, "p": 2.0})
    term = Term(target, policy_gradient, sequence_sum)
    worth = 0.5 * outcome + 2 * process.sum(1)
    found = bias(POLICY, [term], {"o": outcome, "p": process}, worth, group_size=3)
    assert found.difference.abs().max() < 1e-9
