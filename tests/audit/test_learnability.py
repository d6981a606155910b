"""Learnability: groups, bits and signal in closed form, and cliffs where there are any."""

import itertools
import math

import pytest
import torch

from payoff.audit.estimators import used
from payoff.audit.learnability import (
    MEASURES,
    STABILITY,
    cliff_radius,
    dense_agreement,
    entropy_bits,
    flat_share,
    gradient_moments,
    learnability,
    stability,
)

F64 = torch.float64


def yes(n: int) -> torch.Tensor:
    return torch.ones(n, dtype=torch.bool)


def use(scores: torch.Tensor, gold: torch.Tensor | None = None):
    prompts, size = scores.shape
    group = torch.arange(prompts).repeat_interleave(size)
    return used(scores.reshape(-1), yes(prompts * size), group, None if gold is None else gold.reshape(-1))


def coins(prompts: int, size: int, p: float, seed: int = 0) -> torch.Tensor:
    return (torch.rand(prompts, size, generator=torch.Generator().manual_seed(seed), dtype=F64) < p).double()


def measured(scores: torch.Tensor, **options):
    u = use(scores)
    return {m.name: m for m in learnability(u.score, yes(len(u.row)), u.prompt, **options)}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7])
def test_the_share_of_flat_groups_is_that_of_all_subsets(size):
    scores = torch.tensor([[0.0, 0, 1, 1, 1, 3]], dtype=F64)
    subsets = list(itertools.combinations(scores[0].tolist(), size))
    expected = sum(len(set(s)) == 1 for s in subsets) / len(subsets) if subsets else 0.0
    assert float(flat_share(use(scores), size)) == pytest.approx(expected)


def test_flat_groups_of_coins_are_at_the_binomial_share():
    found = measured(coins(4000, 8, 0.2), group_size=4)["flat-groups"]
    assert found.estimate.value == pytest.approx(0.2**4 + 0.8**4, abs=0.01)
    assert found.series["size"] == [2.0, 3.0, 4.0, 6.0, 8.0]
    assert found.series["flat"] == sorted(found.series["flat"], reverse=True)


def test_bits_are_those_of_a_coin_and_at_most_those_of_the_sample():
    bits = entropy_bits(use(coins(3000, 32, 0.1)))
    exact = -0.1 * math.log2(0.1) - 0.9 * math.log2(0.9)
    assert float(bits.mean()) == pytest.approx(exact, abs=0.01)
    distinct = entropy_bits(use(torch.arange(8, dtype=F64).reshape(1, 8)))
    assert float(distinct) == 3
    assert float(entropy_bits(use(torch.full((1, 8), 0.1, dtype=F64)))) == 0


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("p", [0.5, 0.2])
def test_gradient_moments_are_unbiased_over_all_samples_of_a_coin(size, p):
    # Truth: the sample variance of `size` draws, by enumeration; the estimate from five draws, averaged over all samples of five.
    s2 = [
        (p ** sum(draw) * (1 - p) ** (size - sum(draw)), float(torch.tensor(draw, dtype=F64).var()))
        for draw in itertools.product((0.0, 1.0), repeat=size)
    ]
    mean = sum(w * x for w, x in s2)
    variance = sum(w * x * x for w, x in s2) - mean**2
    assert mean == pytest.approx(p * (1 - p))
    samples = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5)), dtype=F64)
    weight = p ** samples.sum(1) * (1 - p) ** (5 - samples.sum(1))
    ours, spread, enough = gradient_moments(use(samples), size)
    assert bool(enough.all())
    assert float((weight * ours).sum()) == pytest.approx(mean)
    assert float((weight * spread).sum()) == pytest.approx(variance)


def test_the_estimate_along_the_reward_is_the_sample_variance():
    # (1 / n) sum_i (r_i - mean of the others) (r_i - any mu) with the score r - mu of the tilted policy
    r = torch.tensor([0.3, 1.7, -2.0, 0.4], dtype=F64)
    others = (r.sum() - r) / 3
    for mu in (0.0, 0.77):
        assert float(((r - others) * (r - mu)).mean()) == pytest.approx(float(r.var()))


def test_a_rare_right_answer_is_heard_by_the_root_of_how_many_there_are():
    found = measured(coins(4000, 64, 0.02), group_size=8, groups=1)["gradient-signal"]
    assert found.estimate.value == pytest.approx(math.sqrt(8 * 0.02), rel=0.1)
    assert found.result == "fails"
    more = measured(coins(4000, 64, 0.02), group_size=8, groups=100)["gradient-signal"]
    assert more.estimate.value == pytest.approx(10 * found.estimate.value)
    assert more.result == "holds"


def test_a_lively_reward_holds_and_a_dead_one_fails_every_measure():
    good, dead = measured(coins(200, 8, 0.4)), measured(torch.full((200, 8), 0.1, dtype=F64))
    for name in MEASURES.asked:
        assert (good[name].result, dead[name].result) == ("holds", "fails"), name
    assert dead["bits-per-rollout"].estimate.value == 0
    assert dead["gradient-signal"].estimate.value == 0
    assert "0.1" in dead["sparsity"].note


def test_few_rollouts_leave_measures_out_and_invalid_ones_change_nothing():
    alone = learnability(torch.rand(5, dtype=F64), yes(5), torch.arange(5))
    assert [m.name for m in alone] == list(MEASURES.asked)
    assert [m.estimate is None for m in alone] == [False, True, True, True]
    assert measured(coins(20, 3, 0.5))["gradient-signal"].estimate is None
    assert all(m.estimate is None for m in learnability(torch.zeros(3, dtype=F64), ~yes(3), torch.arange(3)))
    u = use(coins(30, 6, 0.5))
    clean = learnability(u.score, yes(180), u.prompt)
    more = torch.cat([u.score, torch.tensor([math.nan, 7.0], dtype=F64)])
    valid = torch.cat([yes(181), ~yes(1)])
    again = learnability(more, valid, torch.cat([u.prompt, torch.tensor([0, 1])]))
    assert [m.estimate for m in again] == [pytest.approx(m.estimate) for m in clean]
    with pytest.raises(ValueError, match="group_size >= 2"):
        measured(coins(20, 8, 0.5), group_size=1)


def test_dense_parts_for_and_against_the_outcome():
    outcome = coins(100, 6, 0.5)
    u = use(outcome)
    steps = torch.rand(600, generator=torch.Generator().manual_seed(2), dtype=F64)
    parts = {"with": u.score + 0.1 * steps, "against": -u.score, "flat": torch.zeros(600, dtype=F64), "alone": steps}
    rows = [{"prompt": str(i // 6), "response": str(i)} for i in range(600)]
    found = {m.name: m for m in dense_agreement(parts, u.score, yes(600), u.prompt, rows=rows)}
    assert found["dense-agreement-with"].estimate.value == 1
    assert found["dense-agreement-against"].estimate.value == 0
    assert found["dense-agreement-against"].result == "fails"
    assert found["dense-agreement-flat"].estimate.value == 0.5
    assert found["dense-agreement-alone"].estimate.low < 0.5 < found["dense-agreement-alone"].estimate.high
    assert all(e["gold"] == 0 for e in found["dense-agreement-against"].examples)
    assert dense_agreement(parts, torch.ones(600, dtype=F64), yes(600), u.prompt)[0].estimate is None


def test_no_change_within_the_radius_moves_the_best_answer_and_a_larger_one_can():
    g = torch.Generator().manual_seed(3)
    scores = torch.rand(50, 6, generator=g, dtype=F64)
    radius = cliff_radius(use(scores))[:, None]
    for seed in range(20):
        change = 2 * torch.rand(50, 6, generator=torch.Generator().manual_seed(seed), dtype=F64) - 1
        assert torch.equal((scores + 0.999 * radius * change).argmax(1), scores.argmax(1))
    top = torch.nn.functional.one_hot(scores.argmax(1), 6).double()
    assert not torch.equal((scores + 1.001 * radius * (1 - 2 * top)).argmax(1), scores.argmax(1))
    assert cliff_radius(use(torch.tensor([[1.0, 1, 0], [3, 1, 1]], dtype=F64))).tolist() == [0.0, 1.0]
    assert cliff_radius(use(torch.zeros(1, 1, dtype=F64))).tolist() == [math.inf]


def cliffs(scores, gold, **options):
    u = use(scores, gold)
    return {m.name: m for m in stability(u.score, yes(len(u.row)), u.gold, u.prompt, **options)}


def test_ties_are_a_cliff_only_where_gold_turns_on_them():
    scores = torch.tensor([[1.0, 1, 0, 0]], dtype=F64).repeat(40, 1)
    harmless, harmful = cliffs(scores, scores), cliffs(scores, torch.tensor([[1.0, 0, 0, 0]], dtype=F64).repeat(40, 1))
    assert harmless["policy-cliff"].estimate.value == 0
    assert harmless["policy-cliff"].result == "holds"
    assert (harmful["policy-cliff"].estimate.value, harmful["policy-cliff"].result) == (1.0, "fails")
    assert harmless["top-ties"].estimate.value == harmful["top-ties"].estimate.value == 1


def test_near_ties_fall_only_under_changes_of_their_size():
    # Scores 1, .9, 0 with deviation about .55: the second is within 2 e of the best from e = .1 / 2 / .55 = .09 on.
    scores = torch.tensor([[1.0, 0.9, 0.0]], dtype=F64).repeat(40, 1)
    gold = torch.tensor([[1.0, 0.0, 0.5]], dtype=F64).repeat(40, 1)
    found = cliffs(scores, gold)["policy-cliff"]
    assert found.estimate.value == 0
    assert dict(zip(found.series["perturbation"], found.series["share"], strict=True))[0.1] == 1
    assert cliffs(scores, gold, perturbation=0.1)["policy-cliff"].result == "fails"


def test_stability_without_gold_or_company_says_why():
    free = stability(torch.rand(8, dtype=F64), yes(8), None, torch.arange(8) // 4)
    assert [m.estimate is None for m in free] == [True, False]
    alone = stability(torch.rand(8, dtype=F64), yes(8), None, torch.arange(8))
    assert [m.name for m in alone] == list(STABILITY.asked)
    assert all(m.estimate is None and m.note for m in alone)
    flat = stability(torch.rand(8, dtype=F64), yes(8), torch.ones(8, dtype=F64), torch.arange(8) // 4)
    assert flat[0].estimate is None
