import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.shaping.squashing import (
    centred,
    log_sigmoid_centred,
    par,
    slow_growth,
    squash_arctan,
    squash_polynomial,
    squash_tanh,
)
from payoff.trajectories import Trajectories, outcome, place_outcome

numbers = st.floats(-4, 4)
ALL = (par, centred, slow_growth, squash_tanh, squash_arctan, squash_polynomial, log_sigmoid_centred)


def answers(references: list) -> Trajectories:
    """Trajectories of two actions, each with its own reference scores; None is an item without the field."""
    n = len(references)
    return Trajectories(
        mask=torch.ones(n, 2, dtype=torch.bool),
        length=torch.full((n,), 2),
        group=torch.zeros(n, dtype=torch.int64),
        step=torch.zeros(n, 2, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, 2),
        items=[{} if r is None else {"reference_rewards": r} for r in references],
    )


def shaped(shaping, rewards: list[float], reference_scores: list, **options) -> list[float]:
    traj = answers(reference_scores)
    reward = place_outcome(torch.tensor(rewards, dtype=torch.float64), torch.ones(len(rewards), dtype=torch.bool), traj)
    return outcome(shaping(reward, traj, **options), traj)[0].tolist()


@settings(deadline=None)
@given(numbers, st.lists(numbers, min_size=1, max_size=5), st.floats(0.1, 3))
def test_par_is_a_probability_that_rises_with_the_reward(r, references, sharpness):
    low, high = shaped(par, [r, r + 0.01], [references] * 2, sharpness=sharpness)
    assert 0 < low < high < 1


@settings(deadline=None)
@given(numbers, st.floats(0.1, 5))
def test_par_is_one_half_at_the_reference_with_slope_a_quarter_of_the_sharpness(r, sharpness):
    below, at, above = shaped(par, [r - 1e-4, r, r + 1e-4], [[r]] * 3, sharpness=sharpness)
    assert at == 0.5
    assert (above - below) / 2e-4 == pytest.approx(sharpness / 4, rel=1e-6)


@settings(deadline=None)
@given(numbers, st.lists(numbers, min_size=1, max_size=4), st.floats(-10, 10))
def test_shifting_the_reward_models_scale_changes_nothing_that_is_centred(r, references, shift):
    for shaping in (par, centred, slow_growth, squash_tanh, squash_arctan):
        (here,) = shaped(shaping, [r], [references])
        (there,) = shaped(shaping, [r + shift], [[x + shift for x in references]])
        assert here == pytest.approx(there, abs=1e-9)


@settings(deadline=None)
@given(numbers, numbers, st.floats(0.2, 2))
def test_the_logit_of_par_with_one_reference_gives_the_distance_back(r, reference, sharpness):
    (p,) = shaped(par, [r], [[reference]], sharpness=sharpness)
    assert math.log(p / (1 - p)) == pytest.approx(sharpness * (r - reference), abs=1e-6)


def test_par_becomes_the_share_of_references_beaten_as_it_sharpens():
    assert shaped(par, [1.0], [[0.0, 0.5, 2.0, 0.9]], sharpness=1e6) == [0.75]


def test_par_averages_sigmoids_and_not_distances():
    # sigmoid(0) = .5 and sigmoid(4) = .982: mean .741; the sigmoid of the mean distance 2 would be .881
    assert shaped(par, [2.0], [[2.0, -2.0]]) == pytest.approx([(0.5 + 1 / (1 + math.exp(-4))) / 2])


def test_only_the_first_references_count():
    assert shaped(par, [1.0], [[1.0, 5.0, 5.0]], most=1) == [0.5]
    assert shaped(par, [1.0], [[1.0] * 10 + [99.0] * 10]) == [0.5]


@settings(deadline=None)
@given(numbers, st.lists(numbers, min_size=1, max_size=4))
def test_tanh_is_par_at_sharpness_two_stretched_to_minus_one_and_one(r, references):
    (a,) = shaped(squash_tanh, [r], [references])
    (b,) = shaped(par, [r], [references], sharpness=2.0)
    assert a == pytest.approx(2 * b - 1, abs=1e-12)


@pytest.mark.parametrize("shaping", ALL)
def test_trajectories_with_more_and_fewer_references_do_not_meet(shaping):
    references = [[0.5, 1.0], [3.0, -1.0, 0.25, 2.0], [0.0, 0.0, 7.0]]
    together = shaped(shaping, [1.0, 2.0, 3.0], references)
    alone = [shaped(shaping, [r], [own])[0] for r, own in zip([1.0, 2.0, 3.0], references)]
    assert together == pytest.approx(alone)


def test_slow_growth_is_par_moved_to_the_right():
    assert shaped(slow_growth, [4.0], [[0.5, 1.0]]) == pytest.approx(shaped(par, [1.0], [[0.5, 1.0]]))


def test_golden_numbers_of_the_others():
    # distances to the references 0 and 2 from reward 1: 1 and -1, which cancel; from 2: 2 and 0
    assert shaped(centred, [1.0, 2.0], [[0.0, 2.0]] * 2) == [0.0, 1.0]
    assert shaped(squash_arctan, [1.0, 2.0], [[0.0, 2.0]] * 2) == pytest.approx([0.0, math.atan(2) / 2])
    # mean 1, sample standard deviation sqrt(2), 85th percentile of the standard normal 1.0364334
    q = 1 + 1.0364333894937896 * (math.sqrt(2) + 1e-5)
    assert shaped(log_sigmoid_centred, [1.0], [[0.0, 2.0]]) == pytest.approx([-math.log1p(math.exp(q - 1))])


def test_the_uncentred_shapes_need_no_references():
    assert shaped(squash_tanh, [0.5], [None], references=None) == [math.tanh(0.5)]
    assert shaped(squash_arctan, [0.5], [None], references=None) == [math.atan(0.5)]
    assert shaped(squash_polynomial, [0.0, -6.0, 6.0], [None] * 3, references=None) == pytest.approx([0.5, 0.0, 1.0])


def test_the_polynomial_stays_close_to_the_sigmoid():
    x = torch.linspace(-7, 7, 500, dtype=torch.float64)
    fit = torch.tensor(shaped(squash_polynomial, x.tolist(), [None] * 500, references=None))
    assert 0.01 < (fit - torch.sigmoid(x)).abs().max() < 0.018


@pytest.mark.parametrize("shaping", ALL)
def test_without_references_there_is_no_verdict_and_a_reason(shaping):
    traj = answers([[0.0, 1.0], None, [], [math.nan, None]])
    result = shaping(place_outcome(torch.ones(4), torch.ones(4, dtype=torch.bool), traj), traj)
    value, valid = outcome(result, traj)
    assert valid.tolist() == [True, False, False, False]
    assert value[1:].tolist() == [0, 0, 0]
    assert set(result.reasons) == set(traj.id[1:].tolist())


def test_a_reference_without_a_score_is_left_out():
    assert shaped(par, [1.0], [[1.0, math.nan]]) == [0.5]
    assert shaped(par, [1.0], [[None, 1.0]]) == [0.5]


def test_the_log_sigmoid_needs_two_references():
    traj = answers([[0.0], [0.0, 0.0]])
    result = log_sigmoid_centred(place_outcome(torch.ones(2), torch.ones(2, dtype=torch.bool), traj), traj)
    assert outcome(result, traj)[1].tolist() == [False, True]


@pytest.mark.parametrize("shaping", ALL)
def test_an_unknown_reward_stays_unknown_for_its_own_reason(shaping):
    traj = answers([[0.0, 1.0], [0.0, 1.0]])
    reward = place_outcome(torch.ones(2), torch.tensor([True, False]), traj, {int(traj.id[1]): "the judge hung"})
    result = shaping(reward, traj)
    assert outcome(result, traj)[1].tolist() == [True, False]
    assert result.reasons == {int(traj.id[1]): "the judge hung"}


def test_mistakes_are_named():
    traj = answers([None])
    reward = place_outcome(torch.ones(1), torch.ones(1, dtype=torch.bool), traj)
    with pytest.raises(ValueError, match="no item has the field 'reference_rewards'"):
        par(reward, traj)
    with pytest.raises(ValueError, match="sharpness must be > 0"):
        par(reward, traj, sharpness=0.0)
    with pytest.raises(ValueError, match="most must be at least 1"):
        centred(reward, traj, most=0)
    with pytest.raises(ValueError, match="quantile"):
        log_sigmoid_centred(reward, traj, quantile=1.0)


def test_the_optimum_of_par_keeps_its_quality_where_the_optimum_of_the_raw_reward_hacks():
    """The smallest test of the paper's claim: 300 answers, three of them bad and scored 12 too high, exact optima at equal KL."""
    generator = torch.Generator().manual_seed(0)
    quality = torch.randn(300, generator=generator, dtype=torch.float64)
    reference = torch.softmax(quality, 0)
    score = quality.clone()
    quality[:3] = -5.0
    score[:3] += 12.0
    best_of_reference = torch.multinomial(reference, 10, generator=generator)
    traj = answers([score[best_of_reference].tolist()] * 300)
    raw = place_outcome(score, torch.ones(300, dtype=torch.bool), traj)
    shaped_score = outcome(par(raw, traj), traj)[0]

    def quality_at(reward: torch.Tensor, nats: float) -> float:
        low, high = 1e-3, 1e3  # bisection for the inverse temperature that spends this much divergence
        for _ in range(100):
            middle = math.sqrt(low * high)
            policy = torch.softmax(reference.log() + middle * reward, 0)
            kl = (policy * (policy / reference).log().nan_to_num()).sum()
            low, high = (middle, high) if kl < nats else (low, middle)
        return float((policy * quality).sum())

    assert quality_at(shaped_score, 0.0) == pytest.approx(quality_at(raw.value.sum(1), 0.0), abs=0.1)
    for nats in (0.5, 1.0, 1.5):
        assert quality_at(shaped_score, nats) > quality_at(raw.value.sum(1), nats) + 1.0
