"""Boxes in text: reading, frames, geometry, and the region that is looked at again."""

import json

import pytest
import torch

from payoff.signals.boxes import as_numbers, box_of, crop_region, generalised_iou, iou, overlap, read_items, rescaled, stacked


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('[{"a": 1}]', [{"a": 1}]),
        ('{"a": 1}', [{"a": 1}]),
        ("[1, 2, 3, 4]", [[1, 2, 3, 4]]),
        ("[[1, 2, 3, 4]]", [[1, 2, 3, 4]]),
        ("[]", []),
        ("<answer>[]</answer>", []),
        ("<answer>[1]</answer> or <answer>[2]</answer>", [2]),
        ("[1]\n```json\n[2]\n```\nso", [2]),
        ("```\n[2]\n```", [2]),
        ("<answer>\n```json\n[3]\n```\n</answer>", [3]),
        ("there are two", None),
        ("7", None),
        ('"text"', None),
        ("[1, NaN]", None),
        ("[1, Infinity]", None),
        ("[1", None),
        ("", None),
        ("[" * 100_000, None),
        ('{"a":' * 100_000, None),
        ("<answer>" * 100_000, None),
        ("```\n" * 50_000 + "x", None),
        ("[" + "9" * 10_000 + "]", None),
    ],
)
def test_the_json_that_a_response_ends_in(text, items):
    assert read_items(text) == items


def test_objects_can_be_salvaged_from_what_is_no_json():
    text = 'One {"bbox_2d": [0, 0, 1, 1]} and {"bbox_2d": [broken} and {"bbox_2d": [1, 1, 2, 2], "label": "x"} and {'
    assert read_items(text) is None
    assert [box_of(item) for item in read_items(text, salvage=True)] == [(0, 0, 1, 1), (1, 1, 2, 2)]
    assert read_items("{" * 100_000, salvage=True) is None


def test_no_more_than_ten_thousand_items_are_read():
    assert len(read_items(json.dumps([[0, 0, 1, 1]] * 20_000))) == 10_000


@pytest.mark.parametrize(
    "box", [[2, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1], [0, 0, 1, "2"], [0, 0, 1, None], [0, 0, 1, 1e300], {}, None, 3]
)
def test_what_is_no_box(box):
    assert box_of(box) is None
    assert box_of({"bbox_2d": box}) is None


def test_numbers_are_finite_and_no_flags():
    assert as_numbers((1, 2.5), 2) == (1.0, 2.5)
    for bad in ([True, 1], [float("inf"), 1], [1], "ab", {1: 2}):
        assert as_numbers(bad, 2) is None


def test_iou_and_giou_by_hand():
    a = stacked([(0, 0, 4, 4)])
    others = stacked([(0, 0, 4, 4), (2, 0, 6, 4), (4, 0, 8, 4), (8, 0, 12, 4), (1, 1, 3, 3)])
    # half apart: 8 of 24; touching: 0; apart: 0; inside: 4 of 16
    assert iou(a, others)[0].tolist() == pytest.approx([1, 1 / 3, 0, 0, 1 / 4])
    # box around: 24, 32, 48, 16; empty in it: 0, 0, 16, 0
    assert generalised_iou(a, others)[0].tolist() == pytest.approx([1, 1 / 3, 0, -1 / 3, 1 / 4])
    assert torch.equal(iou(others, a), iou(a, others).T)


def test_boxes_whose_edges_belong_to_them_are_a_pixel_wider():
    # 0..1 is two pixels; 1..2 shares one column of two
    both, union = overlap(stacked([(0, 0, 1, 1)]), stacked([(1, 0, 2, 1)]), border=1.0)
    assert (both.item(), union.item()) == (2, 6)


def test_frames_there_and_back():
    box = (3.0, 5.0, 70.0, 90.0)
    there = rescaled(box, (100, 200), (640, 480))
    assert there == pytest.approx((19.2, 12, 448, 216))
    assert rescaled(there, (640, 480), (100, 200)) == pytest.approx(box)
    assert rescaled(box, None, (1, 1)) == box


@pytest.mark.parametrize("size", [(0, 10), (10, -1), (10,), (float("nan"), 1)])
def test_a_frame_without_a_size_is_refused(size):
    with pytest.raises(ValueError, match="two positive numbers"):
        rescaled((0.0, 0.0, 1.0, 1.0), size, (10, 10))


@pytest.mark.parametrize(
    ("response", "region", "found"),
    [
        ("[0, 0, 100, 50]", (0, 0, 1000, 500), True),  # the full box is the whole image
        ("[10, 10, 20, 20]", (100, 100, 200, 200), True),
        ("[-50, -50, 20, 20]", (0, 0, 200, 200), True),
        ("[10.01, 10, 20.01, 20]", (100, 100, 201, 200), True),  # rounded outwards
        ("[90, 40, 900, 900]", (900, 400, 1000, 500), True),
        ("[200, 0, 300, 50]", (0, 0, 1000, 500), False),
        ("[20, 20, 10, 10]", (0, 0, 1000, 500), False),
        ("[1, 1, 1.01, 5]", (0, 0, 1000, 500), False),
        ("nothing", (0, 0, 1000, 500), False),
        ("[NaN, 0, 1, 1]", (0, 0, 1000, 500), False),
        ('Look at {"bbox_2d": [10, 10, 20, 20]} first', (100, 100, 200, 200), True),
    ],
)
def test_the_region_of_the_second_look(response, region, found):
    assert crop_region(response, (100, 50), (1000, 500)) == (region, found)
