"""Aggregations: the weight of every loss term, from masks alone and over the whole batch.

A loss never averages. Its terms are multiplied by the weights made here and added up, so that however a batch is then cut into
minibatches or spread over devices, the parts' sums add up to the whole batch's, and so do their gradients.

One rule for all: a term counts where the action is the policy's own (`traj.own`) and its target valid; a trajectory counts
where any of its terms does. What does not count has weight 0 and is in no denominator. If nothing counts all weights are 0.
How long sequences weigh against short ones is part of a method's definition: there is no default.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.catalogue import method
from payoff.losses.ratios import terms_that_count
from payoff.trajectories import Channel, Trajectories


@method("token-mean", kind="aggregation", paper="arXiv:2503.14476", sees="batch")
def token_mean(target: Channel, traj: Trajectories) -> Float[Tensor, "N T"]:
    """Every action of the batch weighs the same (DAPO): 1 / (number of terms that count). Long trajectories weigh more.

    >>> from payoff.examples import four_answers
    >>> target = Channel(torch.zeros(4, 1), torch.tensor([[True], [False], [True], [True]]))
    >>> token_mean(target, four_answers())
    tensor([[0.1429, 0.1429, 0.1429],
            [0.0000, 0.0000, 0.0000],
            [0.1429, 0.1429, 0.1429],
            [0.1429, 0.0000, 0.0000]])
    """
    counts = terms_that_count(traj, target)
    return _share(counts, counts.sum(), target)


@method("sequence-mean-token-mean", kind="aggregation", paper="arXiv:2402.03300", sees="batch")
def sequence_mean(target: Channel, traj: Trajectories) -> Float[Tensor, "N T"]:
    """Every trajectory weighs the same, and its terms share that (GRPO): 1 / (terms of the trajectory * trajectories).

    An action of a long trajectory weighs less than one of a short, so long wrong answers are discouraged less.

    >>> from payoff.examples import four_answers
    >>> target = Channel(torch.zeros(4, 1), torch.tensor([[True], [False], [True], [True]]))
    >>> sequence_mean(target, four_answers())
    tensor([[0.1111, 0.1111, 0.1111],
            [0.0000, 0.0000, 0.0000],
            [0.1111, 0.1111, 0.1111],
            [0.3333, 0.0000, 0.0000]])
    """
    counts = terms_that_count(traj, target)
    terms = counts.sum(1, keepdim=True)
    return _share(counts, terms * (terms > 0).sum(), target)


@method("sequence-mean-token-sum", kind="aggregation", sees="batch")
def sequence_sum(target: Channel, traj: Trajectories) -> Float[Tensor, "N T"]:
    """The terms of a trajectory add up, and trajectories are averaged: 1 / (trajectories). The policy gradient as it is derived.

    Its size grows with length; `constant_length` is the same in other units.

    >>> from payoff.examples import four_answers
    >>> target = Channel(torch.zeros(4, 1), torch.tensor([[True], [False], [True], [True]]))
    >>> sequence_sum(target, four_answers())
    tensor([[0.3333, 0.3333, 0.3333],
            [0.0000, 0.0000, 0.0000],
            [0.3333, 0.3333, 0.3333],
            [0.3333, 0.0000, 0.0000]])
    """
    counts = terms_that_count(traj, target)
    return _share(counts, counts.any(1).sum(), target)


@method("constant-length", kind="aggregation", paper="arXiv:2503.20783", sees="batch")
def constant_length(target: Channel, traj: Trajectories, *, max_length: int) -> Float[Tensor, "N T"]:
    """The sum of all terms over a constant (Dr. GRPO): 1 / (trajectories * max_length). No action weighs more for its length.

    max_length is the limit on new actions of the run, the same for every batch; the batch's own width would bring the length
    bias back. Raises ValueError for max_length < 1.

    >>> from payoff.examples import four_answers
    >>> target = Channel(torch.zeros(4, 1), torch.tensor([[True], [False], [True], [True]]))
    >>> constant_length(target, four_answers(), max_length=10)
    tensor([[0.0333, 0.0333, 0.0333],
            [0.0000, 0.0000, 0.0000],
            [0.0333, 0.0333, 0.0333],
            [0.0333, 0.0000, 0.0000]])
    """
    if max_length < 1:
        raise ValueError(f"constant_length: max_length must be at least 1, got {max_length}")
    counts = terms_that_count(traj, target)
    return _share(counts, counts.any(1).sum() * max_length, target)


def _share(counts: Bool[Tensor, "N T"], size: Tensor, target: Channel) -> Float[Tensor, "N T"]:
    return torch.where(counts, 1 / size.to(target.value.dtype), 0)
