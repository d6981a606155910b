"""Cards oreal, slate and pav in closed form, to 1e-9: best-of-n as a tilt, judging single steps, progress of a prover."""

import functools
import itertools
import math

import pytest
import torch

from payoff.advantages.group import grpo, leave_one_out, mean_baseline
from payoff.advantages.normalise import standardise
from payoff.advantages.token_importance import token_importance
from payoff.credit.returns import total
from payoff.enumeration import batches, paid
from payoff.exact import exact_gradient, expected_gradient, gradient_covariance
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular, kl_divergence

F64 = torch.float64
POLICY = Tabular(3, 3, stop=2, spread=1.0, seed=1)
RIGHT = (torch.arange(15) % 4 == 1).to(F64)
P = POLICY.probabilities().detach()
SUCCESS = float(P @ RIGHT)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


# --- oreal


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_best_of_n_of_a_binary_outcome_scales_right_and_wrong_answers_as_wholes(n):
    best = POLICY.best_of_n(RIGHT, n).detach()
    up, down = (1 - (1 - SUCCESS) ** n) / SUCCESS, (1 - SUCCESS) ** (n - 1)
    close(best, torch.where(RIGHT > 0, up * P, down * P))
    # so among right answers it is the policy itself: cloning them needs no more than sampling them
    close(best[RIGHT > 0] / best[RIGHT > 0].sum(), P[RIGHT > 0] / P[RIGHT > 0].sum())


@pytest.mark.parametrize("n", [2, 4])
def test_best_of_n_of_a_binary_outcome_is_the_optimum_of_some_kl_penalty_and_of_a_graded_one_it_is_not(n):
    reached = 1 - (1 - SUCCESS) ** n
    odds = reached * (1 - SUCCESS) / (SUCCESS * (1 - reached))
    optimum = POLICY.optimum(RIGHT, 1 / math.log(odds)).probabilities().detach()
    close(POLICY.best_of_n(RIGHT, n).detach(), optimum)
    graded = normal(15, seed=3)
    best = POLICY.best_of_n(graded, n).detach()
    tilt = (best / P).log()
    # a KL-optimum has log(best / pi) affine in the reward
    slope = torch.linalg.lstsq(torch.stack([graded, torch.ones(15, dtype=F64)], 1), tilt[:, None])
    fit = torch.stack([graded, torch.ones(15, dtype=F64)], 1) @ slope.solution
    assert float((fit[:, 0] - tilt).abs().max()) > 0.05


def test_the_odds_of_oreals_example():
    p = 0.3
    odds = [(a * (1 - p)) / (p * (1 - a)) for a in (1 - 0.7**n for n in (1, 2, 4))]
    assert odds == pytest.approx([1.0, 2.428571, 7.384840], abs=1e-6)


def test_token_importance_that_is_one_everywhere_is_plain_leave_one_out():
    sure = functools.partial(token_importance, threshold=0.0)

    def scored(channel, traj):
        # a scorer that is certain, and right: 1 where the answer is right, 0 where it is wrong
        w = torch.where(channel.value > 0, 800.0, -800.0).to(F64).expand(traj.mask.shape)
        return sure(channel, traj.replace(extras={"token_scores": w}))

    term = Term(weigh({"x": [total, leave_one_out, scored]}), policy_gradient, sequence_sum)
    close(expected_gradient(POLICY, [term], {"x": RIGHT}, group_size=3), exact_gradient(POLICY, RIGHT))


def test_token_importance_that_varies_along_an_answer_is_no_longer_the_gradient_of_the_outcome():
    def scored(channel, traj):
        w = torch.linspace(0.2, 3.0, traj.width, dtype=F64).expand(traj.mask.shape)
        return token_importance(channel, traj.replace(extras={"token_scores": w}))

    term = Term(weigh({"x": [total, leave_one_out, scored]}), policy_gradient, sequence_sum)
    found, exact = expected_gradient(POLICY, [term], {"x": RIGHT}, group_size=3), exact_gradient(POLICY, RIGHT)
    cosine = float(found @ exact / (found.norm() * exact.norm()))
    assert 0.3 < cosine < 0.98


# --- slate


@pytest.mark.parametrize(("steps", "size"), [(2, 2), (2, 3), (3, 2), (4, 2)])
def test_judging_one_step_has_one_part_in_the_number_of_steps_of_the_variance(steps, size):
    # every step pays -1 or 1 as often, independently of the others
    policy = Tabular(2, steps)
    reward = (2.0 * policy.tree.actions - 1).to(F64)

    def variance(of: Tabular, table: torch.Tensor) -> float:
        found = batches(of, group_size=size)
        advantage = mean_baseline(total(paid({"x": table})(found.traj)["x"], found.traj), found.traj).value[:, 0]
        return float((found.probability.repeat_interleave(size) * advantage.square()).sum() / size)

    assert variance(policy, reward) == pytest.approx(steps * (size - 1) / size, abs=1e-12)
    assert variance(Tabular(2, 1), torch.tensor([-1.0, 1.0], dtype=F64)) == pytest.approx((size - 1) / size, abs=1e-12)


def test_where_one_step_has_all_the_spread_nothing_is_gained():
    policy = Tabular(2, 3)
    reward = torch.zeros(8, 3, dtype=F64)
    reward[:, 0] = 2.0 * policy.tree.actions[:, 0] - 1
    term = Term(weigh({"x": [total, leave_one_out]}), policy_gradient, sequence_sum)
    root = gradient_covariance(policy, [term], {"x": reward}, group_size=2).diagonal()[:2].sum()
    one_step = gradient_covariance(Tabular(2, 1), [term], {"x": torch.tensor([-1.0, 1.0], dtype=F64)}, group_size=2).trace()
    assert float(root) == pytest.approx(float(one_step), abs=1e-12)


@pytest.mark.parametrize("size", [2, 3])
def test_with_the_exact_q_as_step_reward_candidates_give_the_exact_gradient_at_their_prefix(size):
    reward = normal(15, seed=2)
    q, occupancy = POLICY.q_values(reward).detach(), POLICY.occupancy().detach()
    exact = exact_gradient(POLICY, reward).view(-1, 3)
    siblings = functools.partial(standardise, baseline="leave-one-out", scale="none")
    term = Term(weigh({"x": [total, siblings]}), policy_gradient, sequence_sum)
    for prefix in range(POLICY.tree.prefix_count):
        step = Tabular(3, 1, logits=POLICY.logits[0, prefix : prefix + 1].detach())
        found = expected_gradient(step, [term], {"x": q[prefix]}, group_size=size)
        torch.testing.assert_close(occupancy[prefix] * found, exact[prefix], rtol=0, atol=1e-9)


def test_with_what_the_step_itself_pays_the_direction_is_myopic():
    reward = torch.zeros(4, 2, dtype=F64)
    reward[0:2, 0], reward[3, 1] = 0.5, 1.0  # `a` pays .5 at once, `bb` 1 at the end
    policy = Tabular(2, 2, logits=torch.tensor([[0.0, 0.0], [0.0, 0.0], [-2.0, 2.0]]))
    term = Term(weigh({"x": [total, leave_one_out]}), policy_gradient, sequence_sum)
    myopic = expected_gradient(Tabular(2, 1), [term], {"x": torch.tensor([0.5, 0.0], dtype=F64)}, group_size=2)
    exact = exact_gradient(policy, reward)[:2]
    assert myopic[0] > 0.1  # towards `a`
    assert exact[0] < -0.05  # `b` is worth 1 x .98


def test_with_one_step_it_is_grpo_and_with_one_candidate_there_is_no_signal():
    found = batches(Tabular(3, 1, spread=1.0), group_size=3)
    credit = total(paid({"x": normal(3)})(found.traj)["x"], found.traj)
    branches = found.traj.replace(
        parent=torch.full_like(found.traj.id, 10**6) + found.traj.group, fork=torch.zeros_like(found.traj.id)
    )
    assert torch.equal(standardise(credit, branches, over="siblings").value, grpo(credit, found.traj).value)
    alone = batches(Tabular(3, 1), group_size=1)
    assert standardise(total(paid({"x": normal(3)})(alone.traj)["x"], alone.traj), alone.traj).value.abs().max() == 0


def test_extending_by_reward_visits_other_prefixes_than_the_policy():
    pi, reward = torch.tensor([0.5, 0.3, 0.2], dtype=F64), torch.tensor([0.0, 1.0, 2.0], dtype=F64)
    went_on = torch.zeros(3, dtype=F64)
    for pair in itertools.product(range(3), repeat=2):  # two candidates, one drawn by exp(reward)
        share = reward[list(pair)].softmax(0)
        went_on.index_add_(0, torch.tensor(pair), share * pi[list(pair)].prod())
    assert went_on.sum() == pytest.approx(1)
    assert (went_on - pi).abs().sum() / 2 > 0.1
    # the more candidates and the more reward, the farther: the least paid loses, the best paid gains
    assert went_on[0] < pi[0]
    assert went_on[2] > pi[2]


# --- pav


def progress(prover: Tabular, outcome: torch.Tensor) -> torch.Tensor:
    """A^mu [prefixes, K]."""
    return (prover.q_values(outcome) - prover.state_values(outcome)[:, None]).detach()


def test_progress_is_zero_on_average_under_the_prover_and_telescopes_along_every_path():
    prover, outcome = Tabular(3, 3, stop=2, spread=1.0, seed=9), normal(15, seed=7)
    a = progress(prover, outcome)
    assert (prover.logits[0].softmax(1) * a).sum(1).abs().max() < 1e-12
    along = torch.where(POLICY.tree.exists, a.flatten()[POLICY.tree.edge], 0).sum(1)
    close(along, outcome - float(prover.state_values(outcome)[0]))


@pytest.mark.parametrize("k", [2, 4])
def test_best_of_k_succeeds_with_one_minus_the_chance_of_k_failures_from_where_it_starts_only(k):
    best = POLICY.best_of_n(RIGHT, k).detach()
    v = POLICY.state_values(RIGHT).detach()
    assert float(best @ RIGHT) == pytest.approx(1 - (1 - float(v[0])) ** k, abs=1e-12)
    # as a policy of single actions, best-of-k from the root is weaker or stronger further down than best-of-k from there
    inner = POLICY.matching(best).state_values(RIGHT).detach()
    up, down = (1 - (1 - SUCCESS) ** k) / SUCCESS, (1 - SUCCESS) ** (k - 1)
    close(inner, up * v / (up * v + down * (1 - v)))
    assert (inner - (1 - (1 - v) ** k)).abs()[1:].max() > 0.02


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_a_small_step_along_q_plus_progress_gains_the_covariance_with_the_policys_own_advantage(alpha):
    outcome, prover = RIGHT, POLICY.uniform()
    own, of_prover = progress(POLICY, outcome), progress(prover, outcome)
    direction = POLICY.q_values(outcome).detach() + alpha * of_prover

    def worth(step: float) -> float:
        moved = Tabular(3, 3, stop=2, logits=POLICY.logits[0].detach() + step * direction)
        return float(moved.probabilities().detach() @ outcome)

    slope = (worth(1e-4) - worth(-1e-4)) / 2e-4
    pi, visits = POLICY.logits[0].softmax(1).detach(), POLICY.occupancy().detach()
    gain = (visits[:, None] * pi * own * (own + alpha * of_prover)).sum()
    assert slope == pytest.approx(float(gain), abs=1e-7)


def test_the_printed_bound_with_the_provers_variance_needs_it_to_be_at_most_the_policys_own():
    # E Var A^mu + E[A^mu A^pi] is said to bound the gain, which to first order is E Var A^pi + E[A^mu A^pi] (alpha 1)
    def both(policy: Tabular, prover: Tabular) -> tuple[float, float]:
        own, of_prover = progress(policy, RIGHT), progress(prover, RIGHT)
        pi, visits = policy.logits[0].softmax(1).detach(), policy.occupancy().detach()[:, None]
        centred = of_prover - (pi * of_prover).sum(1, keepdim=True)
        shared = (visits * pi * own * of_prover).sum()
        return float((visits * pi * own.square()).sum() + shared), float((visits * pi * centred.square()).sum() + shared)

    gain, bound = both(POLICY, POLICY.uniform())
    assert gain > bound
    # a policy that is nearly always wrong, whatever it does first, has next to no variance of its own; a better prover has
    weak = Tabular(3, 3, stop=2, logits=POLICY.logits[0].detach() + 3 * POLICY.q_values(1 - RIGHT).detach())
    strong = POLICY.matching(POLICY.best_of_n(RIGHT, 4))
    gain, bound = both(weak, strong)
    assert gain < bound


def test_kl_of_best_of_k_from_the_policy_is_below_its_bound():
    for k in (2, 4, 16):
        assert float(kl_divergence(POLICY.best_of_n(RIGHT, k).detach(), P)) <= math.log(k) - (k - 1) / k + 1e-12
