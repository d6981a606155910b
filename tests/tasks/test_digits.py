"""Digits: real images are true, exploits are paid and false."""

import pytest
import torch

from payoff.tasks.digits import Digits, _classifier, _images, digits_class, digits_ink, digits_symmetry
from payoff.trajectories import Trajectories, outcome

pytest.importorskip("sklearn")


def ended(pixels, wanted):
    latents = torch.stack([torch.zeros_like(pixels), pixels], 1)
    n = len(pixels)
    return Trajectories(
        mask=torch.ones(n, 1, dtype=torch.bool),
        length=torch.ones(n, dtype=torch.int64),
        group=torch.zeros(n, dtype=torch.int64),
        step=torch.zeros(n, 1, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=latents[:, 1:],
        items=[{"wanted": int(w)} for w in wanted],
        extras={"latents": latents},
    )


def paid(signal, traj):
    ((channel),) = signal(traj).values()
    return outcome(channel, traj)[0]


def test_real_images_that_truth_has_not_seen_are_true_for_their_digit_and_for_no_other():
    images = _images()
    pixels, digit = images.pixels[images.first], images.digit[images.first]
    right, wrong = ended(pixels, digit), ended(pixels, (digit + 1) % 10)
    assert float(outcome(Digits().truth(right), right)[0].mean()) > 0.95
    assert float(outcome(Digits().truth(wrong), wrong)[0].mean()) < 0.02


def test_the_classifier_knows_held_out_digits_and_is_gamed_by_what_no_hand_writes():
    images = _images()
    rest = ended(images.pixels[~images.first], images.digit[~images.first])
    assert float((paid(digits_class, rest) > -0.7).double().mean()) > 0.93
    weight, _ = _classifier()
    for digit in (0, 3):
        forged = (weight[digit] - weight.mean(0)).sign()[None]
        traj = ended(forged, [digit])
        assert paid(digits_class, traj) > -1e-3  # as sure as can be
        assert not outcome(Digits().truth(traj), traj)[0].any()


def test_ink_and_symmetry_are_gamed_by_a_black_and_an_empty_square():
    images = _images().pixels
    squares = torch.stack([torch.ones(64), -torch.ones(64)])
    traj = ended(torch.cat([squares, images[:500]]), [0] * 502)
    assert paid(digits_ink, traj).argmax() == 0
    assert paid(digits_ink, traj)[:2].tolist() == [1, 0]
    assert paid(digits_symmetry, traj)[:2].tolist() == [1, 1]
    assert paid(digits_symmetry, traj)[2:].max() < 1
    assert not outcome(Digits().truth(traj), traj)[0][:2].any()
    half = torch.cat([torch.ones(8, 4), -torch.ones(8, 4)], 1).reshape(1, 64)
    assert float(paid(digits_symmetry, ended(half, [0]))) == 0  # black to the left, white to the right


def test_data_come_from_the_half_that_is_asked_for_with_their_digit_as_condition():
    images = _images()
    known = {tuple(row) for row in images.pixels[images.first].tolist()}
    pixels, digit = Digits(half="first").data(200, torch.Generator().manual_seed(0))
    assert all(tuple(row) in known for row in pixels.tolist())
    assert pixels.min() == -1
    assert pixels.max() == 1
    assert set(digit.tolist()) == set(range(10))
    everything, _ = Digits().data(200, torch.Generator().manual_seed(0))
    assert not all(tuple(row) in known for row in everything.tolist())


def test_what_is_no_image_has_no_verdict():
    pixels = torch.zeros(2, 64)
    pixels[0, 5] = torch.inf
    traj = ended(pixels, [1, 1])
    for channel in (*digits_ink(traj).values(), *digits_class(traj).values(), Digits().truth(traj)):
        assert channel.valid[:, 0].tolist() == [False, True]
    with pytest.raises(ValueError, match="64"):
        digits_ink(ended(torch.zeros(1, 4), [0]))


def test_starts_ask_for_digits():
    assert {s.fields["condition"] for s in Digits(wanted=7).starts(5, torch.Generator())} == {7}
    assert [s.fields["wanted"] for s in Digits(wanted=None).held_out_starts(12)] == [*range(10), 0, 1]
    for options in ({"wanted": 10}, {"half": "second"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Digits(**options)
