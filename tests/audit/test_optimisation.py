"""Over-optimisation before training: unbiased curves, exact distances, fits that recover what made the data, honest losses."""

import itertools
import math

import pytest
import torch

from payoff.audit.estimators import used
from payoff.audit.optimisation import (
    MEASURES,
    Fit,
    best_of_n,
    best_of_n_kl,
    best_of_n_kl_with_ties,
    gao_fit,
    gao_peak,
    held_out_loss,
    largest_common,
    over_optimisation,
    safe_point,
    tilting,
)

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def rows(scores: torch.Tensor, gold: torch.Tensor):
    prompts, size = scores.shape
    group = torch.arange(prompts).repeat_interleave(size)
    return scores.reshape(-1), torch.ones(prompts * size, dtype=torch.bool), gold.reshape(-1), group


def measured(scores, gold, **options):
    return {m.name: m for m in over_optimisation(*rows(scores, gold), **options)}


def use(scores, gold):
    s, valid, y, group = rows(scores, gold)
    return used(s, valid, group, y)


def test_curves_are_averages_over_all_subsets_and_end_at_the_favourite():
    scores, gold = normal(2, 5, seed=1), normal(2, 5, seed=2)
    curves = best_of_n(use(scores, gold))
    assert curves.strength == [1.0, 2.0, 3.0, 4.0, 5.0]
    for prompt, n in itertools.product(range(2), range(1, 6)):
        picked = [max(s, key=lambda i: float(scores[prompt, i])) for s in itertools.combinations(range(5), n)]
        assert float(curves.gold[prompt, n - 1]) == pytest.approx(sum(float(gold[prompt, i]) for i in picked) / len(picked))
        assert float(curves.proxy[prompt, n - 1]) == pytest.approx(sum(float(scores[prompt, i]) for i in picked) / len(picked))


@pytest.mark.slow
def test_best_of_n_of_a_known_policy_is_unbiased_with_ties():
    # Rewards 0 and 1 at probability .7 and .3, gold 0 and 2: best of 3 has gold 2 (1 - .7^3) whatever the sample's size.
    scores = (torch.rand(40_000, 4, generator=torch.Generator().manual_seed(3), dtype=F64) < 0.3).double()
    curves = best_of_n(use(scores, 2 * scores))
    assert float(curves.gold[:, 2].mean()) == pytest.approx(2 * (1 - 0.7**3), abs=0.02)


def test_the_distance_of_best_of_n_is_that_of_its_density_and_ties_only_lower_it():
    # KL = integral of n u^(n-1) log(n u^(n-1)) over 0..1
    u = (torch.arange(400_000, dtype=F64) + 0.5) / 400_000
    for n in (1, 2, 7):
        density = n * u ** (n - 1)
        assert best_of_n_kl(n) == pytest.approx(float(torch.xlogy(density, density).mean()), abs=1e-8)
        for classes in (2, 3, 50):
            assert best_of_n_kl_with_ties([1 / classes] * classes, n) <= best_of_n_kl(n) + 1e-12
    assert best_of_n_kl_with_ties([1 / 20_000] * 20_000, 7) == pytest.approx(best_of_n_kl(7), abs=1e-3)
    assert best_of_n_kl_with_ties([0.7, 0.3], 1000) == pytest.approx(-math.log(0.3))


def test_the_distance_with_ties_is_that_of_the_enumerated_policy():
    chance, reward, n = [0.2, 0.3, 0.1, 0.4], [0, 1, 1, 2], 3
    best = [0.0] * 4
    for draw in itertools.product(range(4), repeat=n):
        p = math.prod(chance[i] for i in draw)
        tied = [i for i in draw if reward[i] == max(reward[j] for j in draw)]
        for i in tied:
            best[i] += p / len(tied)
    kl = sum(q * math.log(q / p) for q, p in zip(best, chance, strict=True))
    assert best_of_n_kl_with_ties([0.2, 0.4, 0.4], n) == pytest.approx(kl)


def test_the_sample_distance_of_a_tied_reward_is_far_below_the_formula():
    scores = (torch.arange(16) >= 8).double().repeat(5, 1)
    curves = best_of_n(use(scores, scores))
    assert curves.kl_sample[-1] == pytest.approx(best_of_n_kl_with_ties([0.5, 0.5], 16))
    assert curves.kl_sample[-1] < math.log(2) < curves.kl[-1]


def test_tilting_is_exact_on_the_sample_and_stops_where_weights_rest_on_one_answer():
    scores, gold = normal(3, 6, seed=4), normal(3, 6, seed=5)
    u = use(scores, gold)
    curves = tilting(u, strengths=(0.0, 0.5, 1.0), least_effective=1.0)
    sd = math.sqrt(float((scores - scores.mean(1, keepdim=True)).square().sum()) / (18 - 3))
    weights = torch.softmax(scores / sd * 0.5, 1)
    torch.testing.assert_close(curves.gold[:, 1], (weights * gold).sum(1))
    assert curves.kl[1] == pytest.approx(float((weights * (weights * 6).log()).sum(1).mean()))
    assert curves.effective[1] == pytest.approx(float((1 / weights.square().sum(1)).mean()))
    assert curves.kl[0] == 0
    assert tilting(u, strengths=(0.0, 1.0, 100.0), least_effective=2.0).strength == [0.0, 1.0]


@pytest.mark.parametrize("form", ["best-of-n", "rl"])
def test_a_fit_recovers_the_curve_that_made_the_data_and_its_peak(form):
    kl = [0.0, 0.1, 0.5, 1.0, 2.0, 4.0]
    curve = lambda d: d * (1.2 - 0.4 * (d if form == "best-of-n" else math.log(d))) if d else 0.0
    fit = gao_fit(kl, [curve(math.sqrt(x)) for x in kl], form)
    assert (fit.alpha, fit.beta) == pytest.approx((1.2, 0.4))
    peak = gao_peak(fit, form)
    assert all(curve(math.sqrt(peak)) >= curve(math.sqrt(peak * f)) for f in (0.9, 0.99, 1.01, 1.1))


def test_fits_without_a_bend_or_without_points():
    assert gao_peak(Fit(1.0, 0.0)) == math.inf
    assert gao_peak(Fit(-1.0, 0.5)) == 0
    assert gao_fit([0.0, 1.0], [0.0, 1.0]) is None


def hacked(prompts: int, size: int, seed: int = 0):
    """One answer in twenty looks five deviations better than it is and is four worse."""
    g = torch.Generator().manual_seed(seed)
    gold = torch.randn(prompts, size, generator=g, dtype=F64)
    trick = (torch.rand(prompts, size, generator=g) < 0.05).double()
    return gold + 5 * trick, gold - 4 * trick


def test_a_hacked_reward_peaks_early_and_fails_and_an_honest_one_holds():
    scores, gold = hacked(200, 16)
    bad, good = measured(scores, gold), measured(gold, gold)
    for name in ("over-optimisation", "over-optimisation-tilted"):
        assert (bad[name].result, good[name].result) == ("fails", "holds")
        assert good[name].estimate.value == 0
    assert 0 < bad["peak-kl"].estimate.value <= bad["safe-kl"].estimate.value < bad["over-optimisation"].series["kl"][-1]
    assert bad["fit-best-of-n"].estimate.low > 0
    assert "never falls" in good["safe-kl"].note


def test_a_reward_with_the_wrong_sign_loses_what_it_could_have_gained():
    gold = torch.arange(8, dtype=F64).repeat(30, 1)
    found = measured(-gold, gold)
    # From the mean 3.5 down to the lowest answer, 0, of a range of 7.
    assert found["over-optimisation"].estimate.value == pytest.approx(0.5)
    assert found["peak-kl"].estimate.value == 0
    # Gold of best-of-2 is the mean of all minima of pairs, 2.0: already 1.5 of 7 below.
    assert found["safe-kl"].estimate.value == 0


def test_an_empty_reward_is_not_failed_more_often_than_promised():
    fails = 0
    for seed in range(30):
        found = measured(normal(40, 8, seed=seed), normal(40, 8, seed=1000 + seed), bounds={"over-optimisation": 0.0})
        fails += found["over-optimisation"].result == "fails"
    assert fails <= 3  # 2.5 % on one side of a bound at the truth: 0.75 expected


def test_the_held_out_loss_is_zero_on_average_where_gold_is_flat_and_plain_maxima_are_not():
    held, plain = [], []
    for seed in range(200):
        gold = normal(20, 10, seed=seed)
        held.append(float(held_out_loss(gold).mean()))
        plain.append(float(gold.mean(0).max() - gold.mean(0)[-1]))
    held, plain = torch.tensor(held), torch.tensor(plain)
    assert abs(float(held.mean())) < 3 * float(held.std()) / math.sqrt(200)
    assert float(plain.mean()) > 5 * float(plain.std()) / math.sqrt(200)


def test_the_safe_point_is_the_last_before_the_fall():
    gold = torch.tensor([0.0, 1.0, 0.95, 0.9, 0.5, 0.99], dtype=F64)
    assert safe_point(gold, 0.2) == (3, True)
    assert safe_point(gold, 0.0) == (1, True)
    assert safe_point(gold, 1.0) == (5, False)


def test_every_point_is_of_the_same_prompts():
    u = use(normal(10, 8), normal(10, 8))
    keep = torch.ones(80, dtype=torch.bool)
    keep[1:8] = False  # the first prompt keeps one answer
    common = largest_common(u.only(keep), 0.9)
    assert common.prompts == 9
    assert common.sizes().tolist() == [8] * 9
    assert common.dropped == 8
    assert largest_common(u.only(keep & (torch.arange(80) < 8))).prompts == 0


def test_many_answers_give_64_points_up_to_all_of_them():
    curves = best_of_n(use(normal(2, 500), normal(2, 500)))
    assert curves.strength[0] == 1
    assert curves.strength[-1] == 500
    assert len(curves.strength) <= 64
    assert curves.strength == sorted(set(curves.strength))


def test_degenerate_samples_say_why():
    for found in (
        over_optimisation(*rows(normal(5, 4), normal(5, 4))[:2], None, torch.arange(20)),
        over_optimisation(*rows(normal(20, 1), normal(20, 1))),
        over_optimisation(*rows(normal(5, 4), torch.ones(5, 4, dtype=F64))),
    ):
        assert [m.name for m in found] == list(MEASURES.asked)
        assert all(m.estimate is None and m.note for m in found)
    constant = measured(torch.ones(30, 4, dtype=F64), normal(30, 4))
    assert constant["over-optimisation"].estimate.value == pytest.approx(0, abs=1e-12)
    assert constant["fit-tilted"].estimate is None
    one = measured(normal(1, 8), normal(1, 8, seed=1))
    assert one["over-optimisation"].result == "inconclusive"
