"""A reward that says the same of what is nearly the same: fusion with stored neighbours, and rewrites to learn from."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def fused(
    reward: Float[Tensor, " N"],
    stored: Float[Tensor, " M"],
    similarity: Float[Tensor, "N M"],
    *,
    least: float = 0.9,
    most: int = 5,
) -> Float[Tensor, " N"]:
    """The mean reward of a text and its nearest stored neighbours, by similarity (RewardFusion, arXiv:2309.16155).

    r'(z) = sum_i a_i r(z_i), a_i = sim_i / sum_j sim_j, over z itself with similarity 1 and the at most `most` stored texts with
    similarity `least` or more. Without such a neighbour it is the reward itself. similarity: of texts (instruction and response
    together), at most 1. The store must hold no text of the set that is judged. Raises ValueError for least <= 0 or most < 0.

    >>> fused(torch.tensor([1.0, 1.0]), torch.tensor([4.0]), torch.tensor([[1.0], [0.5]])).tolist()
    [2.5, 1.0]
    """
    if not least > 0 or most < 0:
        raise ValueError(f"fused: least must be > 0 and most at least 0, got {least} and {most}")
    near, place = similarity.topk(min(most, similarity.shape[1]), dim=1)
    weight = torch.where(near >= least, near, 0.0)
    return (reward + (weight * stored[place]).sum(1)) / (1 + weight.sum(1))


def outermost(features: Float[Tensor, "N D"]) -> Bool[Tensor, " N"]:
    """Which rewrites of a response lie farthest out: the corners of the convex hull of their first two principal components.

    What ConvexDA keeps of the rewrites of a preferred response (arXiv:2309.16155): others are mixtures of these. Of equal points
    the first counts; fewer than three different points, or all on one line in that plane, have no hull: the different ones, or the
    two ends of the line, are kept.

    >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.4]])
    >>> outermost(square).tolist()
    [True, True, True, True, False]
    """
    kept = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    if not len(features):
        return kept
    centred = (features - features.mean(0)).double()
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    flat = centred @ axes.T
    flat = torch.nn.functional.pad(flat, (0, 2 - flat.shape[1]))
    size = float(flat.abs().max()) or 1.0
    points = [(round(x / size, 9), round(y / size, 9)) for x, y in flat.tolist()]
    first = {point: k for k, point in reversed(list(enumerate(points)))}
    ordered = sorted(first)
    corners = ordered if len(ordered) < 3 else [*_lower(ordered), *_lower(ordered[::-1])]
    kept[[first[point] for point in set(corners)]] = True
    return kept


def _lower(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The part of the hull that turns left only, along points in order (Andrew's monotone chain)."""
    found: list[tuple[float, float]] = []
    for x, y in points:
        while len(found) > 1:
            (ax, ay), (bx, by) = found[-2:]
            if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 1e-7:  # beyond rounding: a point on an edge is no corner
                break
            found.pop()
        found.append((x, y))
    return found
