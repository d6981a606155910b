"""Boxes matched one to one, and what is missing or needless."""

import itertools
import json

import pytest

from payoff.signals.grounding_weighted import weighted_detection

CAT, DOG = {"bbox_2d": [0, 0, 10, 10], "label": "cat"}, {"bbox_2d": [50, 50, 60, 60], "label": "dog"}


def paid(*items, **options):
    return weighted_detection(json.dumps(list(items)), [CAT, DOG], **options).value


def test_by_hand():
    assert paid(CAT, DOG) == 1
    half = CAT | {"bbox_2d": [0, 0, 10, 5]}
    assert paid(half, DOG) == pytest.approx(0.7 * 0.75 + 0.3)
    assert paid(CAT) == pytest.approx(0.7 * 0.5 + 0.3 * 0.75)
    assert paid(CAT, DOG, CAT, CAT) == pytest.approx(0.7 + 0.3 * (1 - 0.5 / 2))  # two of four match nothing
    assert paid(CAT, DOG | {"label": "fox"}) == pytest.approx(0.7 * 0.5 + 0.3)  # the label counts for the position alone
    assert paid(CAT | {"bbox_2d": [0, 0, 10, 4]}, DOG) == pytest.approx(0.7 * 0.5 + 0.3 * 0.5)  # below the threshold: no match
    assert paid(half, DOG, position=1.0, completeness=0.0) == pytest.approx(0.75)


def test_the_best_pair_goes_first_in_whatever_order_and_extra_boxes_always_cost():
    near = CAT | {"bbox_2d": [0, 0, 10, 8]}
    for order in itertools.permutations([near, CAT, DOG]):
        assert paid(*order) == pytest.approx(0.7 + 0.3 * (1 - 1 / 6))
    scores = [paid(CAT, DOG, *[CAT] * k) for k in range(5)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 5


def test_silence_and_what_cannot_be_read():
    assert weighted_detection("[]", []).value == 1
    assert weighted_detection("[]", [CAT]).value == weighted_detection(json.dumps([CAT]), []).value == 0
    assert weighted_detection("nothing", []).value == 0
    assert paid("text", None, {"bbox_2d": "all"}) == pytest.approx(0.3 * 0)
    assert not weighted_detection("[]", "nowhere").valid
    with pytest.raises(ValueError, match="weights >= 0 that are not both 0"):
        paid(CAT, position=0.0, completeness=0.0)
