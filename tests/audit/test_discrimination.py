"""Discrimination: the published numbers of chance, ties read as stated, and nothing from rows without a verdict."""

import itertools
import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from payoff.audit.discrimination import (
    MEASURES,
    discrimination,
    discrimination_by,
    one_against_many,
    reciprocal_ranks,
    right_answers,
    top_gain,
    top_k,
)
from payoff.audit.estimators import standing, used

F64 = torch.float64


def tensor(*x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=F64)


def by_name(found):
    return {m.name: m for m in found}


def measured(scores, gold, group, **options):
    return by_name(discrimination(scores, torch.ones(len(scores), dtype=torch.bool), gold, group, **options))


def all_orders(k: int):
    """One prompt per order of one right answer and k wrong ones: a reward that knows nothing."""
    orders = list(itertools.permutations(range(k + 1)))
    scores = torch.tensor(orders, dtype=F64)
    gold = torch.zeros_like(scores)
    gold[:, 0] = 1
    return scores.reshape(-1), gold.reshape(-1), torch.arange(len(orders)).repeat_interleave(k + 1)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_reward_that_knows_nothing_has_the_published_chance_levels(k):
    found = measured(*all_orders(k))
    assert found["one-against-many"].estimate.value == pytest.approx(1 / (k + 1))
    assert found["mean-reciprocal-rank"].estimate.value == pytest.approx(sum(1 / i for i in range(1, k + 2)) / (k + 1))
    assert found["pairwise-accuracy"].estimate.value == pytest.approx(0.5)
    assert f"{1 / (k + 1):.3f}" in found["one-against-many"].note
    assert found["top-agreement"].estimate.value == pytest.approx(0, abs=1e-12)


def test_with_one_wrong_answer_one_against_many_is_pairwise_accuracy():
    g = torch.Generator().manual_seed(0)
    scores, gold = torch.rand(80, generator=g, dtype=F64), torch.tensor([1.0, 0] * 40, dtype=F64)
    found = measured(scores, gold, torch.arange(80) // 2)
    assert found["one-against-many"].estimate.value == found["pairwise-accuracy"].estimate.value
    assert found["auc"].estimate.value == pytest.approx(roc_auc_score(gold, scores))


def test_gold_itself_is_a_perfect_reward_and_its_opposite_the_worst():
    g = torch.Generator().manual_seed(1)
    gold, group = torch.rand(400, generator=g, dtype=F64), torch.arange(400) // 8
    best, worst = measured(gold, gold, group), measured(-gold, gold, group)
    for name, asked in MEASURES.asked.items():
        assert best[name].estimate.value == pytest.approx(0.0 if asked.bad == "above" else 1.0)
        assert best[name].result == ("not applicable" if asked.bound is None else "holds")
        assert worst[name].result == ("not applicable" if asked.bound is None else "fails")
    assert worst["auc"].estimate.value == 0
    assert worst["auc"].severity == 1


def test_a_constant_reward_gets_half_of_every_pair_and_nothing_where_ties_count_against_it():
    gold = torch.tensor([1.0, 0, 0, 0] * 30, dtype=F64)
    found = measured(torch.full((120,), 0.3, dtype=F64), gold, torch.arange(120) // 4)
    assert found["auc"].estimate.value == found["pairwise-accuracy"].estimate.value == 0.5
    assert found["one-against-many"].estimate.value == 0
    assert found["mean-reciprocal-rank"].estimate.value == 0.25  # behind all three wrong ones
    assert found["top-precision"].estimate.value == 0.25  # a tie broken at random
    assert found["top-agreement"].estimate.value == pytest.approx(0, abs=1e-12)
    u = used(torch.zeros(120, dtype=F64), torch.ones(120, dtype=torch.bool), torch.arange(120) // 4, gold)
    assert one_against_many(u, right_answers(u), ties=True)[0].mean() == 1


def test_worked_by_hand_two_prompts_of_three():
    # Prompt 0: right .9 .2, wrong .5: lowest right below the wrong one; first right is first. Its favourite is right.
    # Prompt 1: right .4, wrong .4 .1: a tie counts against it, rank 2. Its favourite is a tie of right and wrong: one half.
    found = measured(tensor(0.9, 0.2, 0.5, 0.4, 0.4, 0.1), tensor(1, 1, 0, 1, 0, 0), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert found["one-against-many"].estimate.value == 0
    assert found["mean-reciprocal-rank"].estimate.value == pytest.approx((1 + 1 / 2) / 2)
    assert found["pairwise-accuracy"].estimate.value == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert found["top-precision"].estimate.value == pytest.approx((1 + 0.5) / 2)
    # gained (1 - 2/3) + (1/2 - 1/3) of (1 - 2/3) + (1 - 1/3)
    assert found["top-agreement"].estimate.value == pytest.approx(0.5 / 1)


@pytest.mark.parametrize("seed", range(4))
def test_reciprocal_ranks_are_those_of_sorting_with_wrong_answers_first(seed):
    g = torch.Generator().manual_seed(seed)
    scores, gold = torch.randint(4, (7,), generator=g).double(), torch.tensor([1.0, 1, 0, 0, 0, 1, 0], dtype=F64)
    u = used(scores, torch.ones(7, dtype=torch.bool), torch.zeros(7, dtype=torch.int64), gold)
    ordered = sorted(range(7), key=lambda i: (-float(scores[i]), float(gold[i])))
    first = next(rank for rank, i in enumerate(ordered, 1) if gold[i])
    assert float(reciprocal_ranks(u, right_answers(u)).max()) == pytest.approx(1 / first)


def test_the_top_k_of_tied_answers_is_the_mean_over_all_ways_to_take_them():
    scores, gold = tensor(3, 2, 2, 2, 1), tensor(0, 1, 2, 6, 9)
    u = used(scores, torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.int64), gold)
    place = standing(scores, torch.zeros(5, dtype=torch.int64))
    pairs = [(0 + float(gold[a]) + float(gold[b])) / 3 for a, b in itertools.combinations((1, 2, 3), 2)]
    assert float(top_k(u, place, 3)) == pytest.approx(sum(pairs) / 3)
    assert float(top_k(u, place, 5)) == pytest.approx(float(gold.mean()))
    gained, attainable = top_gain(u, place)
    assert (float(gained), float(attainable)) == pytest.approx((0 - 3.6, 9 - 3.6))


def test_a_wrong_sign_on_one_prompt_in_four_is_counted_there_and_noise_is_not():
    g = torch.Generator().manual_seed(4)
    gold, group = torch.randn(1600, generator=g, dtype=F64), torch.arange(1600) // 8
    turned = measured(torch.where(group < 50, -gold, gold), gold, group)["reversed-prompts"]
    assert (turned.estimate.value, turned.result) == (0.25, "fails")
    noisy = measured(gold + 0.7 * torch.randn(1600, generator=g, dtype=F64), gold, group)["reversed-prompts"]
    assert noisy.result == "holds"
    constant = measured(torch.zeros(1600, dtype=F64), gold, group)["reversed-prompts"]
    assert constant.estimate.value == 0  # half of all pairs is not fewer than half
    assert measured(gold[:400], gold[:400], torch.arange(400) // 4)["reversed-prompts"].estimate is None  # 6 pairs a prompt


def test_rows_without_verdict_or_gold_change_nothing_but_the_note():
    g = torch.Generator().manual_seed(2)
    scores, gold, group = (
        torch.rand(40, generator=g, dtype=F64),
        torch.randint(2, (40,), generator=g).double(),
        torch.arange(40) // 4,
    )
    clean = discrimination(scores, torch.ones(40, dtype=torch.bool), gold, group)
    more = [
        torch.cat([x, y])
        for x, y in ((scores, tensor(math.nan, 9, 9)), (gold, tensor(1, 0, math.nan)), (group, torch.tensor([0, 0, 1])))
    ]
    valid = torch.ones(43, dtype=torch.bool)
    valid[41] = False
    order = torch.randperm(43, generator=g)
    again = discrimination(more[0][order], valid[order], more[1][order], more[2][order] * 1000 + 7)
    for a, b in zip(clean, again, strict=True):
        assert a.estimate == pytest.approx(b.estimate)
        assert "3 of 43 rows" in b.note


def test_without_gold_or_difference_every_measure_is_there_and_says_why():
    scores, yes, group = torch.rand(6, dtype=F64), torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.int64)
    for gold, valid in ((None, yes), (torch.ones(6, dtype=F64), yes), (torch.ones(6, dtype=F64), ~yes)):
        found = discrimination(scores, valid, gold, group)
        assert [m.name for m in found] == list(MEASURES.asked)
        assert all(m.result == "not applicable" and m.note for m in found)


def test_one_prompt_has_estimates_and_is_never_failed():
    found = discrimination(tensor(0, 1), torch.ones(2, dtype=torch.bool), tensor(1, 0), torch.zeros(2, dtype=torch.int64))
    assert found[0].estimate.value == 0
    assert {m.result for m in found} == {"inconclusive", "not applicable"}


def test_real_valued_gold_calls_the_best_of_a_prompt_right_unless_told_otherwise():
    u = used(tensor(1, 2, 3), torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64), tensor(0.2, 0.9, 0.6))
    assert right_answers(u).tolist() == [False, True, False]
    assert right_answers(u, 0.5).tolist() == [False, True, True]


def test_a_planted_bad_slice_is_named_and_fails_while_the_rest_holds():
    g = torch.Generator().manual_seed(3)
    gold, group = torch.rand(1200, generator=g, dtype=F64), torch.arange(1200) // 4
    source = group % 3
    scores = torch.where(source == 1, -gold, gold)
    found = discrimination_by(scores, torch.ones(1200, dtype=torch.bool), gold, group, source, by="source", names=("a", "b", "c"))[
        0
    ]
    assert found.result == "fails"
    assert found.note.startswith("Lowest in b: a 1.000, b 0.000, c 1.000")
    assert found.series["prompts"] == [100.0] * 3
    assert found.estimate.level == pytest.approx(1 - 0.05 / 3)


def test_slices_of_single_answers_are_compared_across_prompts_and_small_ones_are_never_the_worst():
    gold = torch.tensor([0.0, 1.0] * 30 + [0.0, 1.0], dtype=F64)
    scores = torch.cat([gold[:60], 1 - gold[60:]])
    part = torch.tensor([0] * 60 + [1] * 2)
    found = discrimination_by(scores, torch.ones(62, dtype=torch.bool), gold, torch.arange(62), part, by="length")[0]
    assert found.estimate.value == 1
    assert "1 0.000" in found.note
    assert "any two answers" in found.note
    assert (
        discrimination_by(scores[:2], torch.ones(2, dtype=torch.bool), gold[:2], torch.arange(2), part[:2], by="x")[0].estimate
        is None
    )


def test_worst_examples_are_wrong_answers_that_beat_right_ones():
    rows = [{"prompt": "p", "response": r} for r in ("right", "wrong but loved", "wrong")]
    found = measured(tensor(0.5, 0.9, 0.1), tensor(1, 0, 0), torch.zeros(3, dtype=torch.int64), rows=rows)
    assert [e["response"] for e in found["one-against-many"].examples] == ["wrong but loved"]
    assert found["top-precision"].examples[0]["reward"] == 0.9


def test_a_bound_given_by_name_replaces_the_default():
    gold, group = torch.tensor([1.0, 0] * 200, dtype=F64), torch.arange(400) // 2
    scores = torch.where(torch.arange(400) < 40, 1 - gold, gold)  # 9 pairs in 10 the right way round
    assert measured(scores, gold, group)["pairwise-accuracy"].result == "holds"
    assert measured(scores, gold, group, bounds={"pairwise-accuracy": 0.99})["pairwise-accuracy"].result == "fails"
