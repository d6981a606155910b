"""Best-of-k advantages: against subsets written out, and their mean against the gradient of pass@k itself."""

import functools
import inspect
import itertools
import math

import pytest
import torch

from payoff.advantages.group import leave_one_out, mean_baseline
from payoff.advantages.pass_at_k import best_of_group, mean_normalised, pass_at_k
from payoff.credit.returns import total
from payoff.exact import compare, exact_gradient, expected_gradient, gradient_covariance
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, Trajectories, constant

F64 = torch.float64
POLICY = Tabular(3, 2, stop=2, spread=1.0, seed=1)  # 7 sequences of 1 or 2 actions
RIGHT = torch.tensor([1, 0, 0, 1, 0, 0, 1], dtype=F64)
GRADED = torch.tensor([0.3, -0.5, 1.0, 0.0, 0.8, 0.3, 0.6], dtype=F64)
GROUPS = [[0.3, 0.1, 0.9, 0.9, 0.2], [1.0, 0.0, 0.0], [0.5] * 4, [2.0], [-3.0, 4.0, -1.0, 0.5, 4.0, 7.0]]


def bandit(groups, dtype=F64) -> tuple[Channel, Trajectories]:
    value = torch.tensor([x for group in groups for x in group], dtype=dtype)
    n = len(value)
    traj = Trajectories(
        mask=torch.ones(n, 1, dtype=torch.bool),
        length=torch.ones(n, dtype=torch.int64),
        group=torch.tensor([k for k, group in enumerate(groups) for _ in group]),
        step=torch.zeros(n, 1, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, 1, dtype=torch.int64),
        id=torch.arange(n),
    )
    return constant(value, torch.ones(n, dtype=torch.bool)), traj


def by_subsets(group: list[float], k: int, against: str) -> list[float]:
    """The definition, subset by subset."""
    mean = lambda numbers: sum(numbers) / len(numbers)
    result = []
    for i, own in enumerate(group):
        others = group[:i] + group[i + 1 :]
        if len(group) < k + (against == "others"):
            result.append(0.0)
            continue
        partners = list(itertools.combinations(others, k - 1))
        best = mean([max([own, *chosen]) for chosen in partners])
        if against == "without":
            base = mean([max(chosen) for chosen in partners])
        else:
            base = mean([max(chosen) for chosen in itertools.combinations(others if against == "others" else group, k)])
        result.append(k * (best - base))
    return result


@pytest.mark.parametrize("against", ["without", "others", "group"])
@pytest.mark.parametrize("k", [2, 3, 4, 5, 6])
def test_the_advantage_is_the_mean_over_subsets_in_groups_of_any_size(k, against):
    found = pass_at_k(*bandit(GROUPS), k=k, against=against).value[:, 0]
    expected = [x for group in GROUPS for x in by_subsets(group, k, against)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-12)


def test_one_try_is_leave_one_out_and_against_the_group_the_mean_baseline():
    for against, known in (("without", leave_one_out), ("others", leave_one_out), ("group", mean_baseline)):
        found = pass_at_k(*bandit(GROUPS), k=1, against=against).value
        torch.testing.assert_close(found, known(*bandit(GROUPS)).value, rtol=0, atol=1e-12)


def test_k_of_the_whole_group_pays_the_best_its_lead_over_the_second():
    # [-3, 4, -1, 0.5, 4, 7]: 6 (7 - 4)
    channel, traj = bandit([GROUPS[4]])
    found = pass_at_k(channel, traj, k=6).value[:, 0]
    assert found.tolist() == pytest.approx([0, 0, 0, 0, 0, 18], abs=1e-9)
    torch.testing.assert_close(6 * best_of_group(channel, traj, scale="none").value[:, 0], found, rtol=0, atol=1e-9)


def best_of(k: int, reward: torch.Tensor) -> torch.Tensor:
    """The gradient of E[max of k independent rollouts], by the distribution of the largest."""
    p, values = POLICY.probabilities(), reward.unique()
    reached = torch.stack([(p * (reward <= value)).sum() ** k for value in values])
    return torch.autograd.grad(values @ torch.diff(reached, prepend=torch.zeros(1, dtype=F64)), POLICY.logits)[0].flatten()


def term(advantage) -> Term:
    return Term(weigh({"x": [total, advantage]}), policy_gradient, sequence_sum)


def mean_of(advantage, reward: torch.Tensor, size) -> torch.Tensor:
    return expected_gradient(POLICY, [term(advantage)], {"x": reward}, group_size=size)


@pytest.mark.parametrize("reward", [RIGHT, GRADED], ids=["right or wrong", "graded"])
@pytest.mark.parametrize(("k", "size"), [(1, 2), (2, 2), (2, 4), (3, 3), (3, 4)])
def test_the_expected_direction_is_the_gradient_of_the_best_of_k(reward, k, size):
    wanted = best_of(k, reward)
    assert wanted.abs().max() > 1e-3
    for against in ("without", "others"):
        if size >= k + (against == "others"):
            found = mean_of(functools.partial(pass_at_k, k=k, against=against), reward, size)
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_for_right_or_wrong_the_best_of_k_is_pass_at_k():
    p = POLICY.probabilities() @ RIGHT
    wanted = torch.autograd.grad(1 - (1 - p) ** 3, POLICY.logits)[0].flatten()
    torch.testing.assert_close(best_of(3, RIGHT), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("k", "size"), [(1, 3), (2, 3), (2, 4), (3, 4)])
def test_the_groups_own_estimate_as_baseline_costs_k_parts_in_n(k, size):
    found = mean_of(functools.partial(pass_at_k, k=k, against="group"), GRADED, size)
    torch.testing.assert_close(found, (1 - k / size) * best_of(k, GRADED), rtol=0, atol=1e-9)


def noise_of(k: int, against: str, reward: torch.Tensor) -> float:
    advantage = functools.partial(pass_at_k, k=k, against=against)
    return float(gradient_covariance(POLICY, [term(advantage)], {"x": reward}, group_size=k + 1).trace())


def test_the_same_subsets_without_it_are_less_noisy_for_right_or_wrong_and_not_always_for_graded_rewards():
    assert all(noise_of(k, "without", RIGHT) < noise_of(k, "others", RIGHT) for k in (2, 3))
    assert noise_of(2, "without", GRADED) > noise_of(2, "others", GRADED)


def test_the_lead_over_a_spread_is_no_gradient_of_the_best_of_the_group():
    plain = compare(mean_of(functools.partial(best_of_group, scale="none"), GRADED, 3), best_of(3, GRADED))
    assert plain.residual < 1e-9
    assert plain.scale == pytest.approx(1 / 3, abs=1e-9)
    assert compare(mean_of(best_of_group, GRADED, 3), best_of(3, GRADED)).residual > 0.02


@pytest.mark.parametrize("size", [2, 3, 4])
def test_max_rl_climbs_the_sum_of_pass_at_j_over_j_up_to_one_less_than_the_group(size):
    found = mean_of(mean_normalised, RIGHT, size)
    wanted = sum(best_of(j, RIGHT) / j for j in range(1, size))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    p = float(POLICY.probabilities().detach() @ RIGHT)
    weight = (1 - (1 - p) ** (size - 1)) / p
    torch.testing.assert_close(found, weight * exact_gradient(POLICY, RIGHT), rtol=0, atol=1e-9)


def test_max_rl_by_hand_in_groups_of_other_ranges():
    # mean 1/4: 0.75 / 0.25 = 3 and -1; mean 3/4: 1/3 and -1; none right: 0; [1, 3] less low = -1: mean 3, so -1/3 and 1/3
    channel, traj = bandit([[1.0, 0, 0, 0], [1.0, 1, 1, 0], [0.0, 0.0]])
    assert mean_normalised(channel, traj).value[:, 0].tolist() == pytest.approx([3, -1, -1, -1, 1 / 3, 1 / 3, 1 / 3, -1, 0, 0])
    assert mean_normalised(*bandit([[1.0, 3.0]]), low=-1.0).value[:, 0].tolist() == pytest.approx([-1 / 3, 1 / 3])
    with pytest.raises(ValueError, match=r"at least low = 0.0, trajectory 1 has -0.5"):
        mean_normalised(*bandit([[1.0, -0.5]]))


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_equal_rewards_and_ties_for_the_best_give_exactly_zero(dtype):
    equal = bandit([[x] * size for x in (0.97, 0.3, 1e-30, 1e6 / 3) for size in (1, 2, 5, 12)], dtype)
    for k in (1, 2, 5):
        for against in ("without", "others", "group"):
            assert pass_at_k(*equal, k=k, against=against).value.abs().max() == 0
    assert best_of_group(*equal).value.abs().max() == 0
    assert mean_normalised(*equal).value.abs().max() == 0
    assert best_of_group(*bandit([[0.7, 0.7, 0.1]], dtype)).value.abs().max() == 0


def test_what_is_unknown_makes_the_group_smaller():
    channel, traj = bandit([[1.0, 0.0, 5.0, 0.5]])
    valid = torch.tensor([[True], [True], [False], [True]])
    found = pass_at_k(Channel(torch.where(valid, channel.value, torch.nan), valid), traj, k=2)
    smaller = pass_at_k(*bandit([[1.0, 0.0, 0.5]]), k=2).value[:, 0].tolist()
    assert found.value[:, 0].tolist() == pytest.approx([smaller[0], smaller[1], 0, smaller[2]])
    assert found.valid.equal(valid)
    assert pass_at_k(Channel(found.value, valid), traj, k=4).value.abs().max() == 0


def test_large_groups_stay_finite_and_right():
    # of 200 with 3 right, the best of 50: A = 50 P(no other right in the 49) = 50 C(197, 49) / C(199, 49)
    found = pass_at_k(*bandit([[1.0] * 3 + [0.0] * 197]), k=50).value[:, 0]
    assert found[:3].tolist() == pytest.approx([50 * math.comb(197, 49) / math.comb(199, 49)] * 3, rel=1e-9)
    assert found[3:].abs().max() == 0


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="k must be >= 1"):
        pass_at_k(*bandit([[1.0, 0.0]]), k=0)
    with pytest.raises(ValueError, match="against must be"):
        inspect.unwrap(pass_at_k)(*bandit([[1.0, 0.0]]), against="all")
    with pytest.raises(ValueError, match="scale must be"):
        inspect.unwrap(best_of_group)(*bandit([[1.0, 0.0]]), scale="rms")
