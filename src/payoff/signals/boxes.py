"""Boxes and points in text: reading them from JSON, bringing them into one frame, and the geometry that graders share.

A box is x1, y1, x2, y2 with x1 < x2 and y1 < y2; an item is an object such as {"bbox_2d": [...], "point_2d": [...], "label": ...}.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

Boxes = Float[Tensor, "M 4"]
Numbers = Sequence[float | int]
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_OBJECT = re.compile(r"\{[^{}]{0,1000}\}")
_MOST = 10_000  # items that are looked at
_LARGEST = 1e7  # of a coordinate


def read_items(text: str, *, salvage: bool = False) -> list[Any] | None:
    """The items of the JSON that a response ends in: in its last <answer>, else in its last fenced block, else all of it.

    A single object, or a single bare box, is a list of one. None where there is no JSON: no strict one (NaN is none), nothing but
    a list, object or box, or one nested too deeply.
    salvage: then take every flat object that can be read on its own

    >>> read_items('<answer>```json\\n[{"bbox_2d": [0, 0, 2, 2]}]\\n```</answer>'), read_items("[1, 2, 3, 4]"), read_items("none")
    ([{'bbox_2d': [0, 0, 2, 2]}], [[1, 2, 3, 4]], None)
    """
    before, closed, _ = text.rpartition("</answer>")
    if closed and "<answer>" in before:
        text = before.rpartition("<answer>")[2]
    fenced = _FENCED.findall(text)
    text = fenced[-1] if fenced else text
    found = _parsed(text.strip())
    if isinstance(found, dict) or (isinstance(found, list) and len(found) == 4 and as_numbers(found, 4)):
        found = [found]
    if isinstance(found, list):
        return found[:_MOST]
    if not salvage:
        return None
    objects = (_parsed(match[0]) for match, _ in zip(_OBJECT.finditer(text), range(_MOST), strict=False))
    return [one for one in objects if isinstance(one, dict)] or None


def as_numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """So many finite numbers, as floats; None for anything else.

    >>> as_numbers([1, 2.5], 2), as_numbers([1, True], 2), as_numbers([1, float("nan")], 2)
    ((1.0, 2.5), None, None)
    """
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    if any(isinstance(x, bool) or not isinstance(x, int | float) or not -_LARGEST <= x <= _LARGEST for x in value):
        return None
    return tuple(float(x) for x in value)


def box_of(item: Any) -> tuple[float, ...] | None:
    """The box of an item, or a bare one; None where it has none that encloses anything.

    >>> box_of({"bbox_2d": [0, 0, 2, 1]}), box_of([2, 0, 0, 1]), box_of("box")
    ((0.0, 0.0, 2.0, 1.0), None, None)
    """
    box = as_numbers(item.get("bbox_2d") if isinstance(item, dict) else item, 4)
    return box if box is not None and box[0] < box[2] and box[1] < box[3] else None


def rescaled(box: Numbers, shown: Numbers | None, image: Numbers | None) -> tuple[float, ...]:
    """A box or point from the frame (width, height) that a model was shown to that of the image; as it is where either is None.

    Raises ValueError for a width or height that is no positive number.

    >>> rescaled((1.0, 1.0, 2.0, 3.0), (10, 10), (20, 100))
    (2.0, 10.0, 4.0, 30.0)
    """
    if shown is None or image is None:
        return tuple(float(x) for x in box)
    old, new = as_numbers(shown, 2), as_numbers(image, 2)
    if old is None or new is None or min(*old, *new) <= 0:
        raise ValueError(f"the sizes of frames must be two positive numbers, got {shown} and {image}")
    factors = [b / a for a, b in zip(old, new, strict=True)]
    return tuple(x * factors[k % 2] for k, x in enumerate(box))


def overlap(a: Boxes, b: Float[Tensor, "N 4"], *, border: float = 0.0) -> tuple[Float[Tensor, "M N"], Float[Tensor, "M N"]]:
    """Areas of intersection and union of all pairs. border 1: both edges belong to a box, so [3, 3] is one pixel wide.

    >>> overlap(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
    (tensor([[2.]]), tensor([[6.]]))
    """
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (high - low + border).clamp(min=0).prod(-1)
    area = lambda x: (x[:, 2:] - x[:, :2] + border).clamp(min=0).prod(-1)
    return both, area(a)[:, None] + area(b)[None] - both


def iou(a: Boxes, b: Float[Tensor, "N 4"], *, border: float = 0.0) -> Float[Tensor, "M N"]:
    """Intersection over union of all pairs, 0..1; 0 where neither has an area.

    >>> iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [2.0, 0.0, 4.0, 2.0]]))
    tensor([[1.0000, 0.3333, 0.0000]])
    """
    both, union = overlap(a, b, border=border)
    return torch.where(union > 0, both / torch.where(union > 0, union, 1), 0)


def generalised_iou(a: Boxes, b: Float[Tensor, "N 4"]) -> Float[Tensor, "M N"]:
    """IoU minus the share of the smallest box around both that belongs to neither: -1..1, and negative where boxes are apart.

    >>> generalised_iou(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3.0, 0.0, 4.0, 1.0]]))
    tensor([[-0.5000]])
    """
    both, union = overlap(a, b)
    low, high = torch.minimum(a[:, None, :2], b[None, :, :2]), torch.maximum(a[:, None, 2:], b[None, :, 2:])
    around = (high - low).prod(-1)
    return both / union - (around - union) / around


def stacked(boxes: Sequence[Numbers], width: int = 4) -> Float[Tensor, "M w"]:
    """Boxes or points as a float64 tensor, also of none.

    >>> stacked([]).shape, stacked([(0, 0, 1, 1)]).dtype
    (torch.Size([0, 4]), torch.float64)
    """
    return torch.tensor([list(box) for box in boxes], dtype=torch.float64).reshape(-1, width)


def crop_region(response: str, shown: Numbers, image: Numbers, *, smallest: float = 1.0) -> tuple[tuple[int, int, int, int], bool]:
    """What to cut out of the original image for a second look: the first box of a response, and whether there was one (MGPO).

    The box stands in the frame `shown` (width, height) that the model saw; it is brought to that of the original `image`, cut off
    at its edges and rounded outwards to pixels. No box, one outside the image, or one less than `smallest` pixels wide or high: the
    whole image, so that the second turn always runs. Never crop what was already scaled down: the second look is for the detail.
    Raises ValueError for frames without width and height.

    >>> crop_region('{"bbox_2d": [10, 10, 60, 20]}', (100, 50), (1000, 500)), crop_region("there", (100, 50), (1000, 500))
    (((100, 100, 600, 200), True), ((0, 0, 1000, 500), False))
    """
    width, height = (int(x) for x in rescaled(image, image, image))
    whole = (0, 0, width, height), False
    box = next((box for item in read_items(response, salvage=True) or () if (box := box_of(item)) is not None), None)
    if box is None:
        return whole
    x1, y1, x2, y2 = rescaled(box, shown, image)
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
    if x2 - x1 < smallest or y2 - y1 < smallest:
        return whole
    return (math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)), True


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
