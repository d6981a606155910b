"""What tuning did to the set of things a policy can find at all: kept, gained and lost problems, and success within k tries."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Support(NamedTuple):
    """Problems (or answers) by who can find them, and the rates made of the four counts (arXiv:2507.14843).

    kept, gained, lost, never: found by both, by the tuned policy alone, by the base alone, by neither
    """

    kept: int
    gained: int
    lost: int
    never: int

    @property
    def retention(self) -> float:
        """Support retention rate: kept / (kept + lost); 1 where the base found nothing."""
        return self.kept / (self.kept + self.lost) if self.kept + self.lost else 1.0

    @property
    def discovery(self) -> float:
        """Net discovery rate: gained / (kept + gained); 0 where the tuned policy finds nothing."""
        return self.gained / (self.kept + self.gained) if self.kept + self.gained else 0.0

    @property
    def dynamic(self) -> float:
        """Support dynamic score: the harmonic mean of retention and discovery; 0 where both are 0."""
        both = self.retention + self.discovery
        return 2 * self.retention * self.discovery / both if both else 0.0

    @property
    def net_change(self) -> float:
        """Net support change rate: (gained - lost) / (kept + gained + lost); 0 where nobody finds anything."""
        some = self.kept + self.gained + self.lost
        return (self.gained - self.lost) / some if some else 0.0


def support_cells(base: Bool[Tensor, " n"], tuned: Bool[Tensor, " n"]) -> Support:
    """Count problems by whether the base and the tuned policy found them within the same number of tries.

    >>> found = support_cells(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False]))
    >>> found, found.retention, found.net_change
    (Support(kept=1, gained=1, lost=1, never=1), 0.5, 0.0)
    """
    cells = (base & tuned, ~base & tuned, base & ~tuned, ~base & ~tuned)
    return Support(*(int(cell.sum()) for cell in cells))


def success_within(right: Int[Tensor, " n"], tries: Int[Tensor, " n"], k: int) -> Float[Tensor, " n"]:
    """pass@k of each problem without bias: 1 - C(tries - right, k) / C(tries, k), the chance that k of its tries hold a right one.

    float64. Raises ValueError for k < 1, fewer tries than k, or counts that contradict one another.

    >>> success_within(torch.tensor([1, 0, 3]), torch.tensor([4, 4, 4]), 2).tolist()
    [0.5, 0.0, 1.0]
    """
    if k < 1 or (tries < k).any() or (right < 0).any() or (right > tries).any():
        raise ValueError(f"success_within: wants 0 <= right <= tries and 1 <= k <= tries, got k = {k}")
    miss = [
        math.prod((n - c - i) / (n - i) for i in range(k)) if n - c >= k else 0.0 for c, n in zip(right.tolist(), tries.tolist())
    ]
    return 1 - torch.tensor(miss, dtype=torch.float64)


def detectable(tries: int, *, missed: float = 0.05) -> float:
    """The least probability that k tries find with chance 1 - missed: 1 - missed^(1 / k), about -log(missed) / k.

    What is rarer than that and never seen may have been there all along: "gained" and "lost" are said of this threshold.
    Raises ValueError for tries < 1 and a `missed` outside (0, 1).

    >>> round(detectable(8192), 6)
    0.000366
    """
    if tries < 1 or not 0 < missed < 1:
        raise ValueError(f"detectable: tries must be at least 1 and missed lie in (0, 1), got {tries} and {missed}")
    return -math.expm1(math.log(missed) / tries)
