"""A second look at a picture: what to cut out of it, the cut itself, and where what is found there lies in the whole (MGPO).

Pictures are arrays and tensors [height, width, ...], or anything with `size` and `crop` such as those of PIL, which is not needed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from payoff.signals.boxes import Numbers, crop_region, rescaled

Region = tuple[int, int, int, int]


class Look(NamedTuple):
    """What the second turn is shown: the cut-out, where it lies in the original (x1, y1, x2, y2), and whether a box was named."""

    picture: Any
    region: Region
    named: bool


def second_look(response: str, picture: Any, *, shown: Numbers | None = None, smallest: float = 1.0) -> Look:
    """The part of the original picture that a response points at: what the second of MGPO's two turns sees.

    picture: the original; what the first turn saw may have been smaller
    shown:   (width, height) of what it saw, the frame of the response's box; None: the original's own
    No box in the response, or one of nothing: the whole picture, so that there always is a second turn. Boxes are read and held
    to the picture by `payoff.signals.boxes.crop_region`. Detail is there only if the original has more of it than was shown.
    Raises ValueError for a picture or a frame without width and height.

    >>> import numpy
    >>> picture = numpy.arange(64).reshape(8, 8)
    >>> second_look("[1, 0, 2, 1]", picture, shown=(4, 4)).picture  # a quarter of a quarter, at twice the resolution
    array([[ 2,  3],
           [10, 11]])
    >>> second_look("over there", picture, shown=(4, 4)).region
    (0, 0, 8, 8)
    """
    size = picture_size(picture)
    region, named = crop_region(response, size if shown is None else shown, size, smallest=smallest)
    return Look(cropped(picture, region), region, named)


def cropped(picture: Any, region: Region) -> Any:
    """The part of a picture within a region x1, y1, x2, y2 of whole pixels; of the whole picture's region, the picture.

    Raises ValueError for a region that is empty or reaches beyond the picture.

    >>> import numpy
    >>> cropped(numpy.arange(6).reshape(2, 3), (1, 0, 3, 1))
    array([[1, 2]])
    """
    width, height = picture_size(picture)
    x1, y1, x2, y2 = region
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ValueError(f"cropped: the region {tuple(region)} is no part of a picture of {width} x {height}")
    return picture.crop((x1, y1, x2, y2)) if hasattr(picture, "crop") else picture[y1:y2, x1:x2]


def in_original(place: Numbers, region: Region, *, shown: Numbers | None = None) -> tuple[float, ...]:
    """A box or point found in a cut-out, in the frame of the picture it was cut from.

    place: x1, y1, x2, y2 or x, y; region: where the cut-out lies; shown: its size (width, height) as it was shown, if scaled
    Raises ValueError for a size that is none.

    >>> in_original((5, 5), (100, 40, 120, 60), shown=(10, 10)), in_original((0, 0, 20, 20), (100, 40, 120, 60))
    ((110.0, 50.0), (100.0, 40.0, 120.0, 60.0))
    """
    x1, y1, x2, y2 = region
    inside = rescaled(place, shown, (x2 - x1, y2 - y1))
    return tuple(x + (x1, y1)[k % 2] for k, x in enumerate(inside))


def in_crop(place: Numbers, region: Region, *, shown: Numbers | None = None) -> tuple[float, ...]:
    """A box or point of the original in the frame of a cut-out, the inverse of `in_original`; it may lie outside of it.

    >>> in_crop((110, 50), (100, 40, 120, 60), shown=(10, 10))
    (5.0, 5.0)
    """
    x1, y1, x2, y2 = region
    moved = [float(x) - (x1, y1)[k % 2] for k, x in enumerate(place)]
    return rescaled(moved, None if shown is None else (x2 - x1, y2 - y1), shown)


def picture_size(picture: Any) -> tuple[int, int]:
    """(width, height) of an array or tensor [height, width, ...], or of a picture that has a `size` of two numbers.

    >>> import numpy
    >>> picture_size(numpy.zeros((2, 3, 4)))
    (3, 2)
    """
    shape = getattr(picture, "shape", None)
    if shape is not None and len(shape) >= 2:
        size = int(shape[1]), int(shape[0])
    elif isinstance(getattr(picture, "size", None), tuple) and len(picture.size) == 2:
        size = int(picture.size[0]), int(picture.size[1])
    else:
        raise ValueError(f"a picture is an array [height, width, ...] or has a size of two numbers, got {type(picture).__name__}")
    if min(size) < 1:
        raise ValueError(f"a picture must have width and height, got {size[0]} x {size[1]}")
    return size
