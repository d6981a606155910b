"""Ranks, pairs and selection weights: equal to counting one by one, and to averaging over all subsets."""

import itertools
import math

import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from payoff.audit.estimators import (
    best_of_n_weights,
    dense,
    examples,
    pair_counts,
    pair_share,
    quantile_bins,
    rank_correlation,
    redrawn_weights,
    standing,
    tilted_weights,
    used,
)

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rows(seed: int, *, levels: int = 5, golds: int = 4, sets: int = 3, most: int = 25):
    g = generator(seed)
    n = int(torch.randint(1, most, (1,), generator=g))
    draw = lambda high: torch.randint(high, (n,), generator=g)
    return draw(levels).double(), draw(golds).double(), dense(draw(sets))[0]


@pytest.mark.parametrize("golds", [1, 2, 5])
@pytest.mark.parametrize("seed", range(12))
def test_pairs_are_those_counted_one_by_one(seed, golds):
    score, gold, key = random_rows(seed, golds=golds)
    pairs = pair_counts(score, gold, key)
    for i in range(len(score)):
        others = [j for j in range(len(score)) if key[i] == key[j] and gold[i] != gold[j]]
        signs = [float((score[i] - score[j]) * (gold[i] - gold[j])) for j in others]
        assert pairs.compared[i] == len(others)
        assert pairs.agree[i] == sum(1.0 if s > 0 else 0.5 if s == 0 else 0.0 for s in signs)


def test_one_set_and_two_values_of_gold_give_the_area_under_the_curve():
    g = generator(1)
    score, gold = torch.randint(8, (300,), generator=g).double(), (torch.rand(300, generator=g) < 0.3).double()
    share = pair_share(score, gold, torch.zeros(300, dtype=torch.int64), torch.arange(300))
    assert share.value == pytest.approx(roc_auc_score(gold, score), abs=1e-12)


@pytest.mark.parametrize("pooled", [True, False])
def test_the_interval_leaves_out_one_prompt_at_a_time(pooled):
    g = generator(2)
    score, gold = torch.rand(60, generator=g).double(), torch.randint(3, (60,), generator=g).double()
    prompt = torch.arange(60) // 5
    share = lambda keep: pair_share(score[keep], gold[keep], dense(prompt[keep] * (not pooled))[0], prompt[keep])
    every = share(torch.ones(60, dtype=torch.bool))
    left_out = torch.tensor([share(prompt != p).value for p in range(12)], dtype=F64)
    variance = 11 / 12 * float((left_out - left_out.mean()).square().sum())
    # Wilson's half width at p (1 - p) / variance trials, shrunk by (z / t)^2, solved back for the variance
    z, t = stats.norm.ppf(0.975), stats.t.ppf(0.975, 11)
    trials = every.value * (1 - every.value) / variance * (z / t) ** 2
    half = z * math.sqrt(every.value * (1 - every.value) / trials + z * z / (4 * trials**2)) / (1 + z * z / trials)
    assert (every.high - every.low) / 2 == pytest.approx(half)
    assert every.n == 12


def test_no_pair_that_differs_in_gold_is_no_share():
    x = torch.rand(4, generator=generator(), dtype=F64)
    assert pair_share(x, torch.ones(4, dtype=F64), torch.zeros(4, dtype=torch.int64), torch.arange(4)) is None
    assert pair_share(x, x, torch.arange(4), torch.arange(4)) is None


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("seed", range(4))
def test_best_of_n_is_the_average_over_all_subsets_with_ties_shared(n, seed):
    g = generator(seed)
    score, gold = torch.randint(4, (6,), generator=g).double(), torch.rand(6, generator=g, dtype=F64)
    total = 0.0
    for subset in itertools.combinations(range(6), n):
        top = max(float(score[i]) for i in subset)
        best = [i for i in subset if score[i] == top]
        total += sum(float(gold[i]) for i in best) / len(best)
    weights = best_of_n_weights(standing(score, torch.zeros(6, dtype=torch.int64)), n)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    assert float((weights * gold).sum()) == pytest.approx(total / math.comb(6, n), abs=1e-12)


def test_redrawing_is_the_average_over_all_ordered_draws():
    score = torch.tensor([1.0, 2, 2, 5], dtype=F64)
    chance = torch.zeros(4, dtype=F64)
    for draw in itertools.product(range(4), repeat=3):
        top = float(score[list(draw)].max())
        tied = (score == top).double()
        chance += tied / tied.sum() / 4**3
    torch.testing.assert_close(redrawn_weights(standing(score, torch.zeros(4, dtype=torch.int64)), 3), chance)


def test_sets_smaller_than_n_weigh_nothing_and_large_sets_stay_exact():
    place = standing(torch.arange(5, dtype=F64), torch.tensor([0, 0, 1, 1, 1]))
    assert best_of_n_weights(place, 3).tolist() == pytest.approx([0, 0, 0, 0, 1])
    large = standing(torch.arange(200_000, dtype=F64), torch.zeros(200_000, dtype=torch.int64))
    weights = best_of_n_weights(large, 1000)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-8)
    assert float(weights[-1]) == pytest.approx(1000 / 200_000, rel=1e-6)
    with pytest.raises(ValueError, match="n must be >= 1"):
        best_of_n_weights(place, 0)


def test_tilting_is_a_softmax_within_each_prompt_and_does_not_overflow():
    score, prompt = torch.tensor([1.0, 2000, 3], dtype=F64), torch.tensor([0, 1, 0])
    assert tilted_weights(score, prompt, 2, 1.0).tolist() == pytest.approx([1 / (1 + math.e**2), 1.0, 1 / (1 + math.e**-2)])


def test_what_is_not_valid_or_not_finite_never_enters_whatever_it_holds():
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([1.0, nan, 3, inf, 5], dtype=F64)
    gold = torch.tensor([0.0, 1, nan, 1, 1], dtype=F64)
    u = used(scores, torch.ones(5, dtype=torch.bool), torch.tensor([4, 4, 4, 9, 9]), gold)
    assert u.row.tolist() == [0, 4]
    assert (u.prompt.tolist(), u.prompts, u.dropped) == ([0, 1], 2, 3)
    known = used(scores, torch.ones(5, dtype=torch.bool), torch.tensor([4, 4, 4, 9, 9]), gold, torch.tensor([False] + [True] * 4))
    assert known.row.tolist() == [4]


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_spearmans(seed):
    x, y, _ = random_rows(seed + 20, levels=6, golds=6, most=40)
    if len(x) < 4:
        pytest.skip("too few")
    assert rank_correlation(x.tolist(), y.tolist()).value == pytest.approx(stats.spearmanr(x, y).statistic)


def test_rank_correlation_without_order_or_sense():
    assert rank_correlation([1.0] * 4, [1.0, 2.0, 3.0, 4.0])[:3] == (0.0, None, None)
    interval = rank_correlation([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 1.0, 3.0, 4.0, 6.0, 5.0])
    assert -1 <= interval.low < interval.value < interval.high <= 1
    with pytest.raises(ValueError, match="finite pairs"):
        rank_correlation([1.0, float("nan")], [1.0, 2.0])


def test_bins_hold_equal_mass_and_never_part_equal_values():
    x = torch.cat([torch.zeros(50), torch.arange(1, 51)]).double()
    bins = quantile_bins(x, 4)
    assert len(bins[:50].unique()) == 1
    assert torch.bincount(bins).max() <= 75
    assert quantile_bins(torch.tensor([0.2, 0.9, 0.2], dtype=F64), 10).tolist() == [0, 1, 0]


def test_examples_are_the_worst_first_at_most_two_of_a_prompt_and_cut():
    n = 6
    u = used(torch.arange(n, dtype=F64), torch.ones(n, dtype=torch.bool), torch.tensor([0, 0, 0, 1, 1, 1]))
    rows = [{"prompt": "p" * 1000, "response": str(i)} for i in range(n)]
    shown = examples(u, torch.tensor([5.0, 6, 7, -1, 0, 1], dtype=F64), rows)
    assert [e["row"] for e in shown] == [2, 1, 5]
    assert len(shown[0]["prompt"]) == 400
    assert examples(u, u.score, None) == ()
