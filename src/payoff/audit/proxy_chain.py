"""From the loss of a reward model to what its policy is worth: which link breaks, and when the proxy parts from the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float64
from torch import Tensor

from payoff.audit.estimators import rank_correlation
from payoff.intervals import Interval


def links(columns: Mapping[str, Sequence[float]]) -> dict[tuple[str, str], Interval]:
    """Rank correlations of each link of a chain, and of its first with its last, over several rewards (after arXiv:2311.00168).

    columns: in the order of the chain one number for every reward, such as accuracy on held-out pairs, accuracy on what the final
    policy writes, proxy reached, truth reached, a downstream metric. Each of them is assumed to follow from the one before it:
    the link with the least correlation is where that fails. Compare policies at equal KL, not at equal steps.
    Raises ValueError for fewer than two columns or rewards.

    >>> found = links({"accuracy": [0.7, 0.8, 0.9], "proxy": [1.0, 2.0, 3.0], "truth": [3.0, 2.0, 1.0]})
    >>> {f"{a} > {b}": one.value for (a, b), one in found.items()}
    {'accuracy > proxy': 1.0, 'proxy > truth': -1.0, 'accuracy > truth': -1.0}
    """
    names = list(columns)
    if len(names) < 2:
        raise ValueError(f"links: a chain needs two columns, got {len(names)}")
    ends = [(names[0], names[-1])] if len(names) > 2 else []
    return {(a, b): rank_correlation(columns[a], columns[b]) for a, b in [*pairwise(names), *ends]}


def hacking_gap(proxy: Float64[Tensor, " T"], held_out: Float64[Tensor, " T"], first: int = 1) -> Float64[Tensor, " T"]:
    """The proxy's rise less that of a held-out metric, each over its deviation across the run (after arXiv:2601.03468).

    0 at the start (the mean of the first `first` points), above it where the proxy rises and what was never trained on does not.
    A series that never changes rises by 0. Over KL or steps alike; a metric that shares its trunk with the proxy is not held out.
    Raises ValueError for series of different length, or shorter than `first`, or `first` below 1.

    >>> up, down = torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([0.0, 0.0, -1.0]).double()
    >>> [round(x, 3) for x in hacking_gap(up, down).tolist()]
    [0.0, 1.225, 4.571]
    """
    if not 1 <= first <= len(proxy) or len(proxy) != len(held_out):
        raise ValueError(f"hacking_gap: needs two series of one length and 1 <= first, got {len(proxy)}, {len(held_out)}, {first}")

    def risen(x: Float64[Tensor, " T"]) -> Float64[Tensor, " T"]:
        spread = float(x.std(correction=0)) if len(x) > 1 else 0.0
        return (
            (x - x[:first].mean()) / spread if spread > 1e-12 * max(1.0, math.fabs(float(x.abs().max()))) else torch.zeros_like(x)
        )

    return risen(proxy) - risen(held_out)
