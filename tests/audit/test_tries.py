"""Estimates from n tries of what k would score: unbiased by enumeration of everything that can be sampled."""

import itertools
import math
from collections import Counter

import pytest
import torch
from scipy.stats import binom

from payoff.audit.tries import (
    answer_entropy,
    best_of_n_value,
    difficulty,
    majority_at_k,
    majority_distribution,
    pass_at_k,
    success_variance,
    union_success,
)
from payoff.enumeration import batches, paid
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, Trajectories, place_outcome

NAN = float("nan")


def rows(group, answers=None) -> Trajectories:
    group = torch.tensor(group)
    one = torch.ones(len(group), 1, dtype=torch.bool)
    zeros = torch.zeros_like(group)
    items = [{"answer": a} for a in answers] if answers else []
    return Trajectories(one, zeros + 1, group, zeros[:, None].int(), zeros, zeros[:, None], items=items)


def scored(values, traj) -> Channel:
    value = torch.tensor(values, dtype=torch.float64)
    return place_outcome(value.nan_to_num(), ~value.isnan(), traj)


def by_subsets(names, right, k):
    """The share of all subsets of k in which the most frequent answer is right; ties shared; no answer, no vote."""
    total = 0.0
    for some in itertools.combinations(range(len(names)), k):
        votes = Counter(names[i] for i in some if names[i] is not None)
        most = max(votes.values(), default=0)
        first = [a for a, n in votes.items() if n == most and most]
        total += sum(right[names.index(a)] for a in first) / len(first) if first else 0.0
    return total / math.comb(len(names), k)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one_averaged_over_starts(k):
    right = [[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]
    traj = rows([g for g in range(3) for _ in range(6)])
    share = [sum(any(s) for s in itertools.combinations(one, k)) / math.comb(6, k) for one in right]
    found = pass_at_k(scored([float(x) for one in right for x in one], traj), traj, k)
    assert found.value == pytest.approx(sum(share) / 3)
    assert found.n == 3
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_tries_without_verdict_and_starts_with_too_few_are_left_out():
    traj = rows([0, 0, 0, 1, 1, 2])
    correct = scored([1.0, 0.0, NAN, 1.0, NAN, NAN], traj)
    assert pass_at_k(correct, traj, 2).value == 1.0
    assert pass_at_k(correct, traj, 2).n == 1
    assert pass_at_k(correct, traj, 1).value == 0.75
    assert pass_at_k(correct, traj, 3) is None
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        pass_at_k(correct, traj, 0)


@pytest.mark.parametrize(("n", "k", "p"), [(4, 1, 0.3), (6, 2, 0.1), (7, 3, 0.6)])
def test_the_variance_of_pass_at_k_is_unbiased(n, k, p):
    right = torch.arange(n + 1)
    weight = torch.from_numpy(binom.pmf(range(n + 1), n, p))
    found = torch.tensor([1 - math.comb(n - c, k) / math.comb(n, k) for c in right.tolist()], dtype=torch.float64)
    true = float(weight @ found.square() - (weight @ found).square())
    assert float(weight @ success_variance(right, torch.full_like(right, n), k)) == pytest.approx(true, abs=1e-12)


def test_the_variance_needs_twice_as_many_tries():
    with pytest.raises(ValueError, match="at least 2 k = 6 tries of every problem, got 5"):
        success_variance(torch.tensor([1, 1]), torch.tensor([5, 9]), 3)


def test_the_union_over_sources_is_unbiased():
    p, n, k = (0.2, 0.6), (4, 3), (2, 1)
    total = 0.0
    for c in itertools.product(range(n[0] + 1), range(n[1] + 1)):
        weight = math.prod(binom.pmf(c[s], n[s], p[s]) for s in range(2))
        total += weight * float(union_success(torch.tensor([list(c)]), torch.tensor([list(n)]), k))
    assert total == pytest.approx(1 - (1 - p[0]) ** k[0] * (1 - p[1]) ** k[1], abs=1e-12)


def test_a_union_of_equal_parts_is_no_smaller_than_any_part_and_sources_that_fit_are_asked_for():
    right, tries = torch.tensor([[1, 3, 0]]), torch.tensor([[8, 8, 8]])
    parts = [float(union_success(right, tries, [4 * (s == i) for i in range(3)])) for s in range(3)]
    assert float(union_success(right, tries, [4, 4, 4])) >= max(parts)
    assert float(union_success(right, tries, [0, 0, 0])) == 0
    with pytest.raises(ValueError, match="with S = 2, got"):
        union_success(right, tries, [1, 1])


def test_problems_are_sorted_by_where_they_are_solved():
    right = torch.tensor([[5, 5], [5, 4], [0, 9], [0, 0], [1, 1]])
    assert difficulty(right, torch.full((5, 2), 10)) == (1, 2, 1, 1)
    assert difficulty(right, torch.full((5, 2), 10), often=0.1) == (3, 0, 1, 1)


@pytest.mark.parametrize("reward", [[0.3, 0.1, 0.9], [1.0, 0.0, 1.0]], ids=["distinct", "tied"])
def test_the_value_of_best_of_n_is_unbiased_from_more_samples_than_n(reward):
    policy = Tabular(2, 2, stop=1, spread=1.0, seed=3)
    table, truth = torch.tensor(reward, dtype=torch.float64), torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    found = batches(policy, group_size=3)
    channels = paid({"reward": table, "truth": truth})(found.traj)
    total = 0.0
    for number, probability in enumerate(found.probability.tolist()):
        some = torch.arange(3 * number, 3 * number + 3)
        traj = found.traj.select(some)
        channel = {name: Channel(c.value[some, : traj.width], c.valid[some, : traj.width]) for name, c in channels.items()}
        total += probability * best_of_n_value(channel["reward"], channel["truth"], traj, 2).value
    assert total == pytest.approx(float(policy.best_of_n(table, 2).detach() @ truth), abs=1e-12)


def test_best_of_n_with_the_truth_as_reward_is_the_mean_greatest_of_all_subsets():
    value = [0.1, 3.0, 2.0, 2.0, -1.0]
    traj = rows([4] * 5)
    truth = scored(value, traj)
    for n in range(1, 6):
        subsets = list(itertools.combinations(value, n))
        assert best_of_n_value(truth, truth, traj, n).value == pytest.approx(sum(map(max, subsets)) / len(subsets))
    assert best_of_n_value(truth, truth, traj, 6) is None


def test_best_of_n_leaves_out_what_lacks_either_verdict():
    traj = rows([0, 0, 0])
    found = best_of_n_value(scored([9.0, 1.0, 0.0], traj), scored([NAN, 5.0, 3.0], traj), traj, 2)
    assert found.value == 5.0
    assert best_of_n_value(scored([NAN] * 3, traj), scored([1.0] * 3, traj), traj, 1) is None


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_the_majority_of_k_is_the_mean_over_all_subsets_of_k(k):
    for names, truth in (
        (["a", "a", "b", "b", "c", "d", "a"], {"a": 1.0}),
        (["a", "a", "b", None, "c", None, "b"], {"b": 1.0, "c": 1.0}),
        ([None, None, None, None, None, None, "a"], {"a": 1.0}),
        (list("abcdefg"), {"a": 1.0, "g": 1.0}),
    ):
        traj = rows([0] * 7, names)
        right = [truth.get(name, 0.0) for name in names]
        assert majority_at_k(scored(right, traj), traj, k).value == pytest.approx(by_subsets(names, right, k), abs=1e-12)


def test_the_majority_of_k_averages_starts_and_leaves_out_what_has_no_verdict():
    traj = rows([0, 0, 0, 1, 1, 1, 2], ["x", "x", "y", "x", "y", "y", "x"])
    correct = scored([1.0, 1.0, 0.0, 1.0, 0.0, NAN, 1.0], traj)
    found = majority_at_k(correct, traj, 2)  # first: (1 + 1/2 + 1/2) / 3; second: a tie; third: too few
    assert found.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.n == 2
    assert majority_at_k(scored([NAN] * 7, traj), traj, 1) is None


def test_an_answer_that_was_judged_both_ways_counts_by_its_share():
    traj = rows([0, 0, 0], ["x", "x", "x"])
    assert majority_at_k(scored([1.0, 0.0, 1.0], traj), traj, 2).value == pytest.approx(2 / 3)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_the_vote_of_k_draws_is_what_enumerating_all_draws_gives(k):
    p = torch.tensor([0.5, 0.2, 0.2], dtype=torch.float64)  # and 0.1 without an answer
    every = [*p.tolist(), 0.1]
    won = torch.zeros(3, dtype=torch.float64)
    for draw in itertools.product(range(4), repeat=k):
        votes = Counter(i for i in draw if i < 3)
        best = [a for a, n in votes.items() if n == max(votes.values())]
        for a in best:
            won[a] += math.prod(every[i] for i in draw) / len(best)
    found = majority_distribution(p, k)
    torch.testing.assert_close(found, won, atol=1e-12, rtol=0)
    assert float(found.sum()) == pytest.approx(1 - 0.1**k, abs=1e-12)


def test_many_draws_leave_the_most_probable_answer_and_a_large_vote_keeps_its_precision():
    assert float(majority_distribution(torch.tensor([0.3, 0.2, 0.5]), 400)[2]) > 0.999
    two = majority_distribution(torch.tensor([0.55, 0.45], dtype=torch.float64), 101)
    assert float(two[0]) == pytest.approx(float(binom.sf(50, 101, 0.55)), abs=1e-12)
    traj = rows([0] * 200, ["a"] * 110 + ["b"] * 90)
    right = [1.0] * 110 + [0.0] * 90
    from scipy.stats import hypergeom

    assert majority_at_k(scored(right, traj), traj, 63).value == pytest.approx(hypergeom.sf(31, 200, 110, 63), abs=1e-11)


@pytest.mark.parametrize("bad", [[0.7, 0.7], [-0.1, 0.5]])
def test_what_is_no_distribution_is_refused(bad):
    with pytest.raises(ValueError, match="needs probabilities with a sum of at most 1"):
        majority_distribution(torch.tensor(bad), 3)


def test_the_entropy_of_answers_is_that_of_their_shares_within_each_start():
    traj = rows([0, 0, 0, 0, 1, 1, 2], ["a", "a", "b", None, "a", "a", None])
    third = -(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3)
    found = answer_entropy(traj)
    assert found.value == pytest.approx(third / 2)
    assert found.n == 2
    assert answer_entropy(rows([0, 0], [None, None]), answer=lambda item: item["answer"]) is None
