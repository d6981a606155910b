"""Corrections of noisy verdicts row by row: means over the noise, validity, refusals. Gradients are in tests/exact."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.shaping.noise_correction import appealed_rate, backward_correction, forward_correction
from payoff.trajectories import Channel, outcome, place_outcome

F64 = torch.float64
TRAJ = four_answers()


def verdicts(*value: float, valid=(True,) * 4) -> Channel:
    return place_outcome(torch.tensor(value, dtype=F64), torch.tensor(valid), TRAJ)


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("missed", [0.0, 0.2, 0.5])
def test_the_mean_over_the_noise_is_the_right_verdict_and_forward_a_shifted_multiple(wrong, missed):
    seen = verdicts(1, 0, 1, 0)
    back = outcome(backward_correction(seen, TRAJ, false_positive=wrong, false_negative=missed), TRAJ)[0]
    assert float((1 - missed) * back[0] + missed * back[1]) == pytest.approx(1)  # right: accepted with chance 1 - missed
    assert float(wrong * back[0] + (1 - wrong) * back[1]) == pytest.approx(0)
    forth = outcome(forward_correction(seen, TRAJ, false_negative=missed), TRAJ)[0]
    assert float((1 - missed) * forth[0] + missed * forth[1]) == pytest.approx(0)
    assert float(wrong * forth[0] + (1 - wrong) * forth[1]) == pytest.approx(-(1 - wrong - missed))


def test_without_noise_backward_is_the_verdict():
    seen = verdicts(1, 0, 1, 0)
    assert torch.equal(backward_correction(seen, TRAJ, false_positive=0.0, false_negative=0.0).value, seen.value)


def test_rates_may_stand_in_the_items():
    traj = TRAJ.replace(items=[{"fp": 0.1 * i, "fn": 0.2} for i in range(4)])
    found = outcome(backward_correction(verdicts(1, 1, 0, 0), traj, false_positive="fp", false_negative="fn"), traj)[0]
    # (1 - 0) / .8, (1 - .1) / .7, -.2 / .6, -.3 / .5
    assert found.tolist() == pytest.approx([1.25, 0.9 / 0.7, -1 / 3, -0.6])


def test_unknown_verdicts_stay_unknown_and_padding_is_not_read():
    seen = verdicts(1, 0, 1, 0, valid=(True, False, True, True))
    seen = Channel(torch.where(TRAJ.exists, seen.value, torch.nan), seen.valid)
    for found in (
        backward_correction(seen, TRAJ, false_positive=0.1, false_negative=0.2),
        forward_correction(seen, TRAJ, false_negative=0.2),
    ):
        value, valid = outcome(found, TRAJ)
        assert valid.tolist() == [True, False, True, True]
        assert value.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: backward_correction(verdicts(1, 0, 1, 0), TRAJ, false_positive=0.5, false_negative=0.5), "must be < 1"),
        (lambda: backward_correction(verdicts(1, 0, 1, 0), TRAJ, false_positive=-0.1, false_negative=0.5), "0 <= rate < 1"),
        (lambda: backward_correction(verdicts(1, 0.5, 1, 0), TRAJ, false_positive=0.1, false_negative=0.1), "trajectory 1 has 0.5"),
        (lambda: forward_correction(verdicts(1, 0, 1, 0), TRAJ, false_negative="fn"), "no field 'fn'"),
        (lambda: forward_correction(verdicts(1, 0, 1, 0), TRAJ, false_negative=1.0), "0 <= rate < 1"),
        (lambda: appealed_rate(1, 2, checked=3, overturned=0), "checked <= negatives"),
        (lambda: appealed_rate(1, 2, checked=0, overturned=0), "some checked"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
