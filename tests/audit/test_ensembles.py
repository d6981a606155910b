"""Ensembles: the formulas of aggregation, planted shared errors, and members on any scale."""

import pytest
import torch

from payoff.audit.ensembles import (
    MEASURES,
    doubtful_labels,
    ensemble,
    preference_strength,
    robust,
    uncertainty_weighted,
    worst_case,
)

F64 = torch.float64
GROUP = torch.arange(300).repeat_interleave(8)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def measured(scores, gold, group=GROUP, **options):
    return {m.name: m for m in ensemble(scores, torch.ones(scores.shape, dtype=torch.bool), gold, group, **options)}


def members(shared: float, own: float, count: int = 5):
    gold = normal(2400)
    return gold + shared * normal(2400, seed=1) + own * normal(count, 2400, seed=2), gold


def test_aggregations_by_hand_and_where_they_meet():
    scores = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]], dtype=F64)
    assert worst_case(scores).tolist() == [1.0, 2.0]
    # variance over three members with division by three: (4 + 0 + 4) / 3
    assert uncertainty_weighted(scores, 0.5).tolist() == pytest.approx([3 - 0.5 * 8 / 3, 2.0])
    assert uncertainty_weighted(scores, 0.0).tolist() == scores.mean(0).tolist()
    assert robust(scores[1], scores, 1.0).tolist() == scores[1].tolist()
    assert robust(scores[1], scores, 0.0).tolist() == worst_case(scores).tolist()
    assert bool((robust(scores[1], scores, 0.4) <= scores[1]).all())
    with pytest.raises(ValueError, match="penalty"):
        uncertainty_weighted(scores, -0.1)
    with pytest.raises(ValueError, match="share"):
        robust(scores[0], scores, 1.5)


def test_uncertainty_weighting_shifts_with_all_and_turns_with_scale():
    scores = normal(4, 20)
    torch.testing.assert_close(uncertainty_weighted(scores + 3, 0.3), uncertainty_weighted(scores, 0.3) + 3)
    torch.testing.assert_close(uncertainty_weighted(2 * scores, 0.3), 2 * uncertainty_weighted(scores, 0.6))


def test_members_that_are_one_do_not_part_and_gain_nothing():
    found = measured(torch.stack([normal(2400, seed=3)] * 3), normal(2400))
    assert found["ensemble-spread"].estimate.value == pytest.approx(0)
    assert found["ensemble-disagreement"].estimate.value == 0
    assert found["ensemble-shared-error"].estimate.value == pytest.approx(1)
    for name in ("ensemble-mean", "ensemble-worst-case", "ensemble-uncertainty-weighted"):
        assert found[name].estimate.value == pytest.approx(0, abs=1e-12)


def test_unrelated_members_disagree_on_half_of_all_pairs():
    found = measured(normal(3, 2400), None)
    assert found["ensemble-disagreement"].estimate.value == pytest.approx(0.5, abs=0.02)
    assert found["ensemble-disagreement"].result == "fails"
    assert found["ensemble-spread"].estimate.value == pytest.approx(1, abs=0.05)
    assert found["ensemble-mean"].estimate is None


def test_the_shared_error_is_the_planted_share():
    scores, gold = members(shared=0.6, own=0.8)
    found = measured(scores, gold)["ensemble-shared-error"].estimate
    assert found.low < 0.36 < found.high
    assert measured(*members(0.0, 1.0))["ensemble-shared-error"].result == "holds"
    assert measured(*members(1.0, 0.3))["ensemble-shared-error"].result == "fails"


def test_averaging_helps_against_own_errors_and_not_against_shared_ones():
    own, shared = measured(*members(0.0, 1.0)), measured(*members(1.0, 0.0001))
    assert own["ensemble-mean"].estimate.low > 0.2
    assert abs(shared["ensemble-mean"].estimate.value) < 0.02
    assert own["ensemble-mean"].series["n"][-1] == 8
    assert own["ensemble-mean"].series["single"][0] == pytest.approx(own["ensemble-mean"].series["ensemble-mean"][0])


def test_the_loudest_member_does_not_decide_and_offsets_do_not_matter():
    scores, gold = members(0.5, 0.7)
    loud = scores * torch.tensor([1.0, 50, 0.01, 3, 1], dtype=F64)[:, None] + 100 * normal(300, seed=8)[GROUP]
    for a, b in zip(measured(scores, gold).values(), measured(loud, gold).values(), strict=True):
        assert a.estimate.value == pytest.approx(b.estimate.value, abs=1e-9)


def test_a_feature_that_all_members_pay_for_is_named_and_one_that_they_do_not_is_not():
    gold, length, other = normal(2400), normal(2400, seed=4), normal(2400, seed=5)
    scores = gold + length + 0.5 * normal(4, 2400, seed=6)
    found = measured(scores, gold, features={"length": length, "lists": other, "prompt": GROUP.double()})
    assert found["ensemble-shared-feature-length"].result == "fails"
    assert "rise with length" in found["ensemble-shared-feature-length"].note
    assert found["ensemble-shared-feature-lists"].result == "holds"
    assert found["ensemble-shared-feature-prompt"].estimate is None


def test_strength_and_doubtful_labels():
    chosen = torch.tensor([[2.0, 0.0, 1.0], [4.0, 1.0, 0.0]], dtype=F64)
    mean, spread = preference_strength(chosen, torch.full((2, 3), 1.5, dtype=F64))
    assert mean.tolist() == [1.5, -1.0, -1.0]
    assert spread.tolist() == pytest.approx([2**0.5, 0.5**0.5, 0.5**0.5])
    g = torch.Generator().manual_seed(7)
    quality, wrong = torch.rand(500, generator=g, dtype=F64) + 1, torch.rand(500, generator=g) < 0.25
    margin = torch.where(wrong, -quality, quality) + 0.2 * normal(5, 500)
    found = doubtful_labels(margin, torch.zeros(5, 500, dtype=F64), torch.ones(500, dtype=torch.bool), torch.arange(500))[0]
    assert found.estimate.value == float(wrong.double().mean())
    assert found.result == "fails"
    assert found.series["strength"] == sorted(found.series["strength"])


def test_rows_that_one_member_could_not_judge_take_no_part():
    scores, gold = members(0.5, 0.7)
    clean = measured(scores, gold)
    spoiled = torch.cat([scores, torch.full((5, 3), float("nan"), dtype=F64)], 1)
    spoiled[0, 2400:] = 1e9
    valid = torch.ones(spoiled.shape, dtype=torch.bool)
    found = ensemble(spoiled, valid, torch.cat([gold, gold[:3]]), torch.cat([GROUP, torch.zeros(3).long()]))
    for m in found:
        assert m.estimate == pytest.approx(clean[m.name].estimate)


def test_degenerate_ensembles_say_why():
    one, none = measured(normal(1, 2400), normal(2400)), measured(normal(3, 300), normal(300), torch.arange(300))
    for found in (one, none):
        assert list(found) == list(MEASURES.asked)
        assert all(m.estimate is None and m.note for m in found.values())
    constant = measured(torch.ones(3, 2400, dtype=F64), normal(2400))
    assert constant["ensemble-spread"].estimate is None
    assert constant["ensemble-shared-error"].estimate is None
