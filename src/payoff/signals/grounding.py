"""Are the right things pointed at? Graders that compare boxes and points in a response with those of the row; no picture is read.

Boxes lie in the JSON that a response ends in (`payoff.signals.boxes.read_items`). `reference` holds a box, an item
{"bbox_2d": [x1, y1, x2, y2], "point_2d": [x, y], "label": ...}, or a list of items. Where the model saw another size than the one
the reference is in, the row says so: `shown` and `image`, each (width, height). A reference that cannot be read gives no verdict.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from payoff._extras import require
from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.boxes import as_numbers, box_of, generalised_iou, iou, read_items, rescaled, stacked

Size = Sequence[float | int] | None
COCO = tuple(0.5 + 0.05 * k for k in range(10))


class Target(NamedTuple):
    """One thing that is to be found."""

    box: tuple[float, ...]
    label: str
    point: tuple[float, ...] | None


@method("vlm-r1-iou", kind="grader", paper="arXiv:2504.07615")
def box_iou(response: str, reference: Any, shown: Size = None, image: Size = None, *, border: float = 0.0) -> Verdict:
    """IoU of the first box of a response with the reference's one box, 0..1; 0 without a box (VLM-R1's referring reward).

    border: 0, areas as of real numbers; 1: both edges belong to a box, as in the paper's code for boxes of whole pixels (which
            besides counts an overlap one pixel wide as none)
    Gamed by the box that overlaps best on average, such as the whole image. No verdict where the reference is not one box.

    >>> box_iou('<answer>[0, 0, 2, 2]</answer>', [1, 0, 3, 2]).value
    0.3333333333333333
    """
    wanted = _targets(reference)
    if wanted is None or len(wanted) != 1:
        return _unreadable("one box")
    box = next((box for item in read_items(response, salvage=True) or () if (box := box_of(item)) is not None), None)
    if box is None:
        return Verdict(0.0, valid=True, reason="no box")
    return Verdict(float(iou(stacked([rescaled(box, shown, image)]), stacked([wanted[0].box]), border=border)))


@method("vlm-r1-format", kind="grader", paper="arXiv:2504.07615")
def box_format(response: str) -> float:
    """1 where a response is <think>...</think><answer>...</answer>, whose answer is JSON with a box of four whole numbers; else 0.

    >>> box_format('<think>there</think> <answer>{"bbox_2d": [1, 2, 3, 4]}</answer>'), box_format("[1, 2, 3, 4]")
    (1.0, 0.0)
    """
    if any(response.count(tag) != 1 for tag in ("<think>", "</think>", "<answer>", "</answer>")):
        return 0.0
    if not re.fullmatch(r"\s*<think>.*?</think>\s*<answer>.*?</answer>\s*", response, re.DOTALL):
        return 0.0
    boxes = [box for item in read_items(response) or () if (box := box_of(item)) is not None]
    return float(any(all(x == int(x) for x in box) for box in boxes))


@method("vlm-r1", kind="grader", paper="arXiv:2504.07615")
def detection(
    response: str,
    reference: Any,
    shown: Size = None,
    image: Size = None,
    *,
    thresholds: Sequence[float] = COCO,
    penalise_count: float = 1.0,
) -> Verdict:
    """Average precision of all boxes times min(1, wanted / given): redundant boxes cost (VLM-R1's odLength reward).

    AP as COCO computes it on one image with every box equally certain: the first 100 boxes of a label in their order, each matched
    with the best box left that it overlaps by the threshold, precision made monotone and read at 101 recalls; mean over thresholds
    and the reference's labels. Boxes of other labels and without area count only as given. Nothing wanted and nothing given: 1;
    one of the two: 0. `[]` says that there is nothing; no JSON at all says nothing, and is 0.

    penalise_count: the exponent of the last factor; 0 is the plain AP, which barely minds more boxes after the right ones and is
                    hacked by printing many
    thresholds:     of IoU; [0.5] is AP50. Range 0..1. Labels are compared without case. Depends on the order of boxes.
    Cost: thresholds x 100 x boxes of a label. Raises ValueError for thresholds outside 0..1, for none, and a negative exponent.

    >>> there = [{"bbox_2d": [0, 0, 4, 4], "label": "cat"}]
    >>> detection('[{"bbox_2d": [0, 0, 4, 4], "label": "Cat"}]', there).value
    1.0
    >>> detection('[{"bbox_2d": [0, 0, 4, 4], "label": "cat"}, {"bbox_2d": [0, 0, 4, 4], "label": "cat"}]', there).value
    0.5
    """
    if not thresholds or not all(0 < t <= 1 for t in thresholds):
        raise ValueError(f"detection: thresholds of IoU lie in 0..1 and there must be one, got {thresholds}")
    if not penalise_count >= 0:
        raise ValueError(f"detection: penalise_count must be at least 0, got {penalise_count}")
    wanted = _targets(reference)
    if wanted is None:
        return _unreadable("boxes")
    items = read_items(response)
    if items is None:
        return Verdict(0.0, valid=True, reason="no list of boxes")
    if not items or not wanted:
        return Verdict(float(not items and not wanted))
    given = [(_label(item), rescaled(box, shown, image)) for item in items if (box := box_of(item)) is not None]
    scores = []
    for label in dict.fromkeys(target.label for target in wanted):
        mine = stacked([box for name, box in given if name == label][:100])
        overlaps = iou(mine, stacked([target.box for target in wanted if target.label == label])).tolist()
        count = sum(target.label == label for target in wanted)
        scores += [_average_precision(overlaps, count, t) for t in thresholds]
    return Verdict(math.fsum(scores) / len(scores) * min(1.0, len(wanted) / len(items)) ** penalise_count)


@method("vision-r1", kind="grader", paper="arXiv:2503.18013")
def localisation(response: str, reference: Any, shown: Size = None, image: Size = None, *, stage: int = 1) -> Verdict:
    """Precision + recall + form of a set of boxes, 0..3 (Vision-R1's criterion-driven reward).

    Boxes are matched one to one so that the sum of L1 distance of the coordinates - 1[same label] - GIoU is least; q = GIoU of a
    pair. With f(x; lo, hi) = 0 below lo, 1 above hi, else x, and g = 0 below t, 1 above it:
    precision = mean over the pairs of f(q); recall = f(sum g(q) / wanted; 0.5, 0.75); form = 1 where the response is JSON and every
    item with a box and a label has four numbers.

    stage: 1: f from 0.5 to 0.75, t = 0.5; 2: f from 0.75 to 0.9, t = 0.75; 0: f and the recall's f do nothing, t = 0.5.
           `vision-r1-progressive` goes from 1 to 2 while training
    No order of boxes or references matters. Nothing wanted: 0 for any box, else 2 + 1[not in form]: "none" in words is the right
    form then, as in the paper. Nothing given: form alone. Boxes without area are not counted.
    Gamed by more boxes than there are: the pairs are all that precision sees, and over-prediction costs nothing. Pixels dwarf
    labels and GIoU in the matching. Cost: a matching of given x wanted (extra `solvers`). Raises ValueError for another stage.

    >>> there = [{"bbox_2d": [0, 0, 10, 10], "label": "cat"}]
    >>> localisation('[{"bbox_2d": [0, 0, 10, 10], "label": "cat"}]', there).value
    3.0
    >>> localisation('[{"bbox_2d": [0, 0, 10, 6], "label": "cat"}]', there).value, localisation("a cat", there).value
    (2.6, 0.0)
    """
    if stage not in (0, 1, 2):
        raise ValueError(f"localisation: stage must be 0, 1 or 2, got {stage}")
    wanted = _targets(reference)
    if wanted is None:
        return _unreadable("boxes")
    items = read_items(response, salvage=True) or []
    given = [(_label(item), rescaled(box, shown, image)) for item in items if (box := box_of(item)) is not None]
    well_formed = _dual_format(response)
    if not wanted:
        return Verdict(0.0 if given else 3 - well_formed)
    if not given:
        return Verdict(well_formed)
    a, b = stacked([box for _, box in given]), stacked([target.box for target in wanted])
    quality = generalised_iou(a, b)
    same = torch.tensor([[name == target.label for target in wanted] for name, _ in given], dtype=torch.float64)
    rows, columns = _assigned(torch.cdist(a, b, p=1) - same - quality)
    q = quality[rows, columns]
    low, high, least = {0: (0.0, 1.0, 0.5), 1: (0.5, 0.75, 0.5), 2: (0.75, 0.9, 0.75)}[stage]
    recall = ramp(q, least, least).sum() / len(wanted)
    precision = ramp(q, low, high).mean()
    return Verdict(float(precision + (ramp(recall, 0.5, 0.75) if stage else recall) + well_formed))


@method("affordance-r1", kind="grader", paper="arXiv:2508.06206")
def affordance(response: str, reference: Any, affordance: Any = "", similarity: Any = None) -> Verdict:
    """Form, places, no repetition, name and count of what can be acted on, 0..10 (Affordance-R1).

    Sum of: form, 1 for think, rethink and answer in order and nothing else, and the mean over items of 1[a box of four] + 1[a point
    of two] + 1["affordance" given] (0..4); places, the best one-to-one matching of 1[IoU > 0.65, edges included] + 1[mean distance
    of coordinates < 10] + 1[distance of points < 30 and the point in its own box], summed and divided by max(given, wanted)
    (0..3); 1 unless two sentences repeat earlier ones; 1 where every item's affordance is the row's; 1 where as many items are
    given as wanted. At most 120 of each are compared.

    similarity: the row's similarity of what was said and `affordance`, by a model elsewhere: then 1 where it is above 0.8
    A well-formed answer with useless boxes has 7 of 10. Gamed so: only 3 depend on where anything is. No order of items matters.
    Cost: a matching of given x wanted (extra `solvers`). No verdict for a reference without boxes and points.

    >>> there = [{"bbox_2d": [0, 0, 90, 90], "point_2d": [40, 40]}]
    >>> said = '<answer>[{"bbox_2d": [0, 0, 90, 89], "point_2d": [50, 40], "affordance": "hold"}]</answer>'
    >>> affordance(f"<think>a</think><rethink>b</rethink>{said}", there, "hold").value, affordance(said, there, "hold").value
    (10.0, 9.0)
    """
    wanted = _targets(reference)
    if not wanted or any(target.point is None for target in wanted):
        return _unreadable("boxes and points")
    if not isinstance(affordance, str) or not isinstance(similarity, int | float | None):
        said = f"affordance must be text and similarity a number, got {str(affordance)[:40]!r} and {str(similarity)[:40]!r}"
        return Verdict(0.0, valid=False, reason=said)
    pattern = r"<think>.*?</think>\s*<rethink>.*?</rethink>\s*<answer>.*?</answer>"
    tags = [response.count(tag) == 1 for name in ("think", "rethink", "answer") for tag in (f"<{name}>", f"</{name}>")]
    form = float(all(tags) and re.fullmatch(pattern, response.strip(), re.DOTALL) is not None)
    items = read_items(response) if "<answer>" in response else None
    objects = [item for item in items or () if isinstance(item, dict)]
    if items:
        parts = [_long(one.get("bbox_2d"), 4) + _long(one.get("point_2d"), 2) + ("affordance" in one) for one in objects]
        form += sum(parts) / len(items)
    named = (
        similarity > 0.8
        if similarity is not None
        else bool(items)
        and len(objects) == len(items or ())
        and all(str(one.get("affordance", "")).strip().casefold() == affordance.strip().casefold() for one in objects)
    )
    counted = items is not None and len(items) == len(wanted)
    return Verdict(form + _places(items or [], wanted[:120]) + (not _repeats(response)) + named + counted)


@method("point-in-box", kind="grader")
def point_in_box(response: str, reference: Any, shown: Size = None, image: Size = None) -> Verdict:
    """1 where the first point of a response, "point_2d" or a bare [x, y], lies in a box of the reference (its edges too), else 0.

    Gamed by the middle of the image where things tend to be there. No verdict without boxes in the reference.

    >>> point_in_box('{"point_2d": [3, 3]}', [0, 0, 4, 4]).value, point_in_box("<answer>[5, 5]</answer>", [0, 0, 4, 4]).value
    (1.0, 0.0)
    """
    wanted = _targets(reference)
    if not wanted:
        return _unreadable("boxes")
    items = read_items(response, salvage=True) or []
    bare = as_numbers(items, 2)
    point = bare or next((p for one in items if isinstance(one, dict) and (p := as_numbers(one.get("point_2d"), 2))), None)
    if point is None:
        return Verdict(0.0, valid=True, reason="no point")
    x, y = rescaled(point, shown, image)
    return Verdict(float(any(a <= x <= c and b <= y <= d for (a, b, c, d), _, _ in wanted)))


def ramp(x: Float[Tensor, "*shape"], low: float, high: float) -> Float[Tensor, "*shape"]:
    """0 below `low`, 1 above `high`, x between and at them.

    >>> ramp(torch.tensor([0.4, 0.5, 0.7, 0.8]), 0.5, 0.75)
    tensor([0.0000, 0.5000, 0.7000, 1.0000])
    """
    return torch.where(x < low, 0, torch.where(x > high, 1, x))


def _targets(reference: Any) -> list[Target] | None:
    """The reference's things; None where it cannot be read."""
    items = [reference] if isinstance(reference, dict) or as_numbers(reference, 4) else reference
    if isinstance(items, str):
        items = read_items(items)
    if not isinstance(items, list | tuple):
        return None
    boxes = [box_of(item) for item in items]
    if any(box is None for box in boxes):
        return None
    points = [as_numbers(item.get("point_2d"), 2) if isinstance(item, dict) else None for item in items]
    return [Target(box, _label(item), point) for box, item, point in zip(boxes, items, points, strict=True) if box is not None]


def _unreadable(what: str) -> Verdict:
    return Verdict(0.0, valid=False, reason=f"the reference does not hold {what} with x1 < x2 and y1 < y2")


def _label(item: Any) -> str:
    label = item.get("label") if isinstance(item, dict) else None
    return label.strip().casefold() if isinstance(label, str) else ""


def _long(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count


def _assigned(cost: Float[Tensor, "M N"]) -> tuple[Tensor, Tensor]:
    """Rows and columns of the cheapest matching."""
    solve = require("scipy.optimize", "matching boxes one to one").linear_sum_assignment
    rows, columns = solve(cost.numpy())
    return torch.from_numpy(rows), torch.from_numpy(columns)


def _average_precision(overlaps: list[list[float]], count: int, threshold: float) -> float:
    """COCO's AP of equally certain boxes in their order against `count` wanted ones."""
    free, hits, precision = set(range(count)), 0, []
    recall = []
    for number, row in enumerate(overlaps, 1):
        best = max(free, key=lambda j: (row[j], j), default=None)
        if best is not None and row[best] >= min(threshold, 1 - 1e-10):
            free.remove(best)
            hits += 1
        precision.append(hits / number)
        recall.append(hits / count)
    envelope = list(itertools.accumulate(reversed(precision), max))[::-1]
    at, total = 0, 0.0
    for k in range(101):
        while at < len(recall) and recall[at] < k / 100:
            at += 1
        total += envelope[at] if at < len(recall) else 0.0
    return total / 101


def _dual_format(response: str) -> float:
    """1 where the response is JSON, and every item of a list with a box and a label has four entries for the box."""
    items = read_items(response)
    described = [item for item in items or () if isinstance(item, dict) and "bbox_2d" in item and "label" in item]
    return float(items is not None and all(_long(item["bbox_2d"], 4) for item in described))


def _places(items: list[Any], wanted: list[Target]) -> float:
    """Affordance-R1's accuracy, 0..3; 0 where an item lacks four and two finite numbers."""
    pairs = [
        (as_numbers(one.get("bbox_2d"), 4), as_numbers(one.get("point_2d"), 2)) for one in items[:120] if isinstance(one, dict)
    ]
    if not items or len(pairs) < len(items[:120]) or any(box is None or point is None for box, point in pairs):
        return 0.0
    boxes, points = stacked([box or () for box, _ in pairs]), stacked([point or () for _, point in pairs], 2)
    there, at = stacked([target.box for target in wanted]), stacked([target.point or () for target in wanted], 2)
    inside = ((points >= boxes[:, :2]) & (points <= boxes[:, 2:])).all(1)
    close = iou(boxes, there, border=1.0) > 0.65
    near = (boxes[:, None] - there[None]).abs().mean(2) < 10
    touched = ((points[:, None] - at[None]).square().sum(2).sqrt() < 30) & inside[:, None]
    score = close.double() + near.double() + touched.double()
    rows, columns = _assigned(-score)
    return float(score[rows, columns].sum()) / max(len(pairs), len(wanted))


def _repeats(response: str) -> bool:
    sentences = [part.strip() for part in response.split(".") if part.strip()]
    return len(sentences) - len(set(sentences)) >= 2
