"""NFT term by term: values, the gradient that passes a clamp, dropped groups, refusals. On-policy forms are in tests/exact."""

import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.negative_aware import negative_aware
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel

F64 = torch.float64
TRAJ = four_answers().replace(logp={"old": torch.full((4, 3), -1.0, dtype=F64)})


def target(*value: float, valid=(True,) * 4) -> Channel:
    return Channel(torch.tensor(value, dtype=F64)[:, None], torch.tensor(valid)[:, None])


def terms_and_slopes(ratio: float, goal: Channel, **options):
    logp = (TRAJ.logp["old"] + math.log(ratio)).requires_grad_()
    terms = negative_aware(Evaluation(logp, {}), TRAJ, goal, **options).terms
    return terms.detach(), torch.autograd.grad(terms.sum(), logp)[0]


def test_right_and_wrong_terms_by_hand():
    # pass rate 1/4: right 1 - 1/4, wrong -1/4; rho = 2. Right: -(3/4) log 2. Wrong, floor .1: left = (1 - 1/2) / (3/4) = 2/3
    terms, slopes = terms_and_slopes(2.0, target(0.75, -0.25, 0.0, 0.0), least_negative=0.1)
    assert terms[0].tolist() == pytest.approx([-0.75 * math.log(2)] * 3)
    assert terms[1, :2].tolist() == pytest.approx([-0.75 * math.log(2 / 3)] * 2)
    # d/dlogp of -(3/4) log(left) = (3/4) (r rho / (1 - r)) / left = (3/4) (2/3) / (2/3)
    assert slopes[1, :2].tolist() == pytest.approx([0.75, 0.75])
    assert slopes[0].tolist() == pytest.approx([-0.75] * 3)


def test_the_default_floor_of_one_keeps_the_gradient_that_a_clamp_would_kill():
    terms, slopes = terms_and_slopes(1.5, target(0.5, -0.5, 0.0, 0.0))
    # left = (1 - .75) / .5 = .5, raised to 1: value 0, slope (1/2) (r rho / (1 - r)) / 1 = .75
    assert terms[1].abs().max() == 0
    assert slopes[1, :2].tolist() == pytest.approx([0.75, 0.75])


def test_a_wrong_answer_taken_beyond_what_there_was_is_counted():
    output = negative_aware(Evaluation(TRAJ.logp["old"] + math.log(3.0), {}), TRAJ, target(0.5, -0.5, 0.0, 0.0))
    assert output.metrics["rejected_fraction"] == 1.0
    assert output.terms.isfinite().all()


def test_groups_without_difference_unknown_outcomes_and_padding_give_nothing():
    traj = TRAJ.replace(logp={"old": torch.where(TRAJ.exists, -1.0, torch.nan).to(F64)})
    logp = torch.where(TRAJ.exists, -1.3, torch.nan).to(F64).requires_grad_()
    terms = negative_aware(Evaluation(logp, {}), traj, target(0.5, -0.5, 0.0, 0.0, valid=(True, False, True, True))).terms
    assert terms[0].abs().min() > 0
    assert terms[1:].abs().max() == 0
    slopes = torch.autograd.grad(terms.sum(), logp)[0]
    assert slopes.isfinite().all()
    assert slopes[1:].abs().max() == 0


def test_without_negatives_it_is_weighted_cloning_of_right_answers():
    terms, _ = terms_and_slopes(2.0, target(0.75, -0.25, 0.0, 0.0), negative=0.0)
    assert terms[1].abs().max() == 0
    assert terms[0, 0] == pytest.approx(-0.75 * math.log(2))


@pytest.mark.parametrize(("weight", "factor"), [("dr-grpo", 0.75), ("grpo", 3**0.5), ("even", 1.0)])
def test_weights_of_a_start_with_pass_rate_a_quarter(weight, factor):
    terms, _ = terms_and_slopes(2.0, target(0.75, 0.0, 0.0, 0.0), weight=weight)
    assert terms[0, 0] == pytest.approx(-factor * math.log(2))


def test_pass_rates_near_zero_and_one_are_held_apart_from_them():
    terms, slopes = terms_and_slopes(1.0, target(0.999, -0.999, 0.0, 0.0), weight="grpo")
    assert slopes[0, 0] == pytest.approx(-((0.98 / 0.02) ** 0.5))
    assert slopes[1, 0] == pytest.approx((0.02 / 0.98) ** 0.5 * 0.98 / 0.02)
    assert terms.abs().max() < 1e-12


def test_sequence_ratios_stand_at_every_own_action():
    terms, _ = terms_and_slopes(2.0, target(0.5, 0.5, 0.0, 0.0), level="sequence")
    assert terms[0].tolist() == pytest.approx([-0.5 * 3 * math.log(2)] * 3)
    assert terms[1].tolist() == pytest.approx([-0.5 * 2 * math.log(2)] * 2 + [0.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: terms_and_slopes(1.0, target(2.0, 0, 0, 0)), "within -1..1"),
        (lambda: terms_and_slopes(1.0, target(0.5, -0.5, 0, 0), negative=-1.0), "at least 0"),
        (lambda: negative_aware(Evaluation(TRAJ.logp["old"], {}), four_answers().replace(), target(3.0, 0, 0, 0)), "within"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
