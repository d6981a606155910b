"""Where boxes lie and whether none is missing or too many, weighed into one number."""

from __future__ import annotations

import math
from typing import Any

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.boxes import box_of, iou, read_items, rescaled, stacked
from payoff.signals.grounding import Size, _label, _targets, _unreadable


@method("vlm-r1-weighted", kind="grader", paper="arXiv:2504.07615")
def weighted_detection(
    response: str,
    reference: Any,
    shown: Size = None,
    image: Size = None,
    *,
    position: float = 0.7,
    completeness: float = 0.3,
    threshold: float = 0.5,
) -> Verdict:
    """(p position + c completeness) / (p + c): how well boxes lie and how many there are (VLM-R1's weighted detection reward).

    Boxes are matched with those of the reference, the pair of greatest IoU first, as long as it is at least `threshold`. Position
    is the sum of the pairs' IoU, 0 for one of unlike labels, over those wanted; completeness 1 - (share missed + share of those
    given that match nothing) / 2. Nothing wanted and nothing given: 1; one of the two: 0. No order of boxes matters.

    position, completeness: the weights p and c
    Range 0..1. Cost: given x wanted. Unlike an average precision it falls with every redundant box, if by little: one more box
    among n costs c / 2 of at most 1 / n. Gamed by a guess for each likely place, as far as that outweighs the charge; labels are
    looked at in position alone. No verdict for a reference that cannot be read. Raises ValueError for weights below 0 or both 0,
    and a threshold outside 0..1.

    >>> there = [{"bbox_2d": [0, 0, 4, 4], "label": "cat"}, {"bbox_2d": [9, 9, 13, 13], "label": "dog"}]
    >>> said = '[{"bbox_2d": [0, 0, 4, 3], "label": "cat"}]'
    >>> round(weighted_detection(said, there).value, 4)  # 0.7 (0.75 / 2) + 0.3 (1 - 0.5 / 2)
    0.4875
    """
    if min(position, completeness) < 0 or not position + completeness > 0 or not 0 < threshold <= 1:
        raise ValueError(
            "weighted_detection: weights >= 0 that are not both 0 and a threshold in 0..1 are needed, got "
            f"{position}, {completeness} and {threshold}"
        )
    wanted = _targets(reference)
    if wanted is None:
        return _unreadable("boxes")
    items = read_items(response)
    if items is None:
        return Verdict(0.0, valid=True, reason="no list of boxes")
    if not items or not wanted:
        return Verdict(float(not items and not wanted))
    given = [(_label(item), rescaled(box, shown, image)) for item in items if (box := box_of(item)) is not None]
    overlaps = iou(stacked([box for _, box in given]), stacked([target.box for target in wanted])).tolist()
    pairs = sorted(((-x, i, j) for i, row in enumerate(overlaps) for j, x in enumerate(row) if x >= threshold))
    rows, columns, well = set[int](), set[int](), []
    for less, i, j in pairs:
        if i not in rows and j not in columns:
            rows.add(i)
            columns.add(j)
            well.append(-less if given[i][0] == wanted[j].label else 0.0)
    missed, needless = 1 - len(columns) / len(wanted), 1 - len(rows) / len(items)
    score = position * math.fsum(well) / len(wanted) + completeness * (1 - (missed + needless) / 2)
    return Verdict(score / (position + completeness))
