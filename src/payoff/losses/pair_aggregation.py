"""Aggregations of pairs: the weight of every pair's term, over the whole batch, as `aggregation` has them for actions.

A pair's own weight (`Pairs.weight`) is how much it counts beside the others. Without any pair there is no weight, and no loss.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method
from payoff.trajectories import Pairs, Trajectories


@method("pair-mean", kind="aggregation", sees="batch")
def pair_mean(target: Pairs, traj: Trajectories) -> Float[Tensor, " P"]:
    """The mean over all pairs of the batch, weighed by the pairs' own weights: w / sum of w.

    A start with many pairs counts more than one with few: `pair-mean-by-start` is without that. Raises ValueError for a negative
    weight.

    >>> from payoff.examples import four_answers
    >>> pairs = Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.tensor([3.0, 1.0]))
    >>> pair_mean(pairs, four_answers())
    tensor([0.7500, 0.2500])
    """
    weight = _weights(target)
    return _share(weight, weight.double().sum())


@method("pair-mean-by-start", kind="aggregation", sees="batch")
def pair_mean_by_start(target: Pairs, traj: Trajectories) -> Float[Tensor, " P"]:
    """The mean over starts of the mean over their pairs: every start that has a pair of weight above 0 counts the same.

    Raises ValueError for a negative weight.

    >>> from payoff.examples import four_answers
    >>> pairs = Pairs(torch.tensor([[0, 1], [1, 0], [2, 3]]), torch.ones(3), torch.ones(3))
    >>> pair_mean_by_start(pairs, four_answers())
    tensor([0.2500, 0.2500, 0.5000])
    """
    weight = _weights(target)
    if not len(weight):
        return weight
    _, start = traj.group[target.index[:, 0]].unique(return_inverse=True)
    total = weight.new_zeros(int(start.max()) + 1, dtype=torch.float64).index_add(0, start, weight.double())
    return _share(weight, total[start] * (total > 0).sum())


def _weights(target: Pairs) -> Float[Tensor, " P"]:
    if len(target.weight) and bool((target.weight < 0).any()):
        raise ValueError(f"pairs: weights must be >= 0, got {float(target.weight.min())}")
    return target.weight


def _share(weight: Float[Tensor, " P"], size: Tensor) -> Float[Tensor, " P"]:
    return torch.where(size > 0, weight / torch.where(size > 0, size, 1), 0).to(weight.dtype)
