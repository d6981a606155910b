"""Tasks trained one after another: what was learned of each, and what is left of it in the end (RIF-RFT's measures)."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Retention(NamedTuple):
    """Over a sequence of tasks.

    average:    mean score of all tasks in the end
    learned:    mean score of each task right after its own training
    forgetting: mean change of the earlier tasks from then to the end; below 0 what is lost. 0 for a single task
    transfer:   mean score of each task just before its own training; None for a single task
    """

    average: float
    learned: float
    forgetting: float
    transfer: float | None


def retention(scores: Float[Tensor, "K L"]) -> Retention:
    """What a sequence of K tasks leaves behind: scores[i, j] of task j once tasks 0 to i were trained (RIF-RFT, section 3).

    average = mean_j A[K, j]; forgetting = mean_(j < K) (A[K, j] - A[j, j]). A comparison of two ways to train is fair where
    `learned` is the same: who learns nothing forgets nothing. Put a task that is never trained in a column of another matrix,
    and the drift of general ability is the difference of its first and last number.

    Scores above the diagonal are of tasks not yet trained; only the one just before its training is read (`transfer`), so those
    that were not measured may be NaN: `transfer` is then None. Raises ValueError for a matrix that is not square or has no task,
    and where a number on or below the diagonal that counts is missing.

    >>> import torch
    >>> retention(torch.tensor([[0.9, 0.2], [0.6, 0.8]]))
    Retention(average=0.7, learned=0.85, forgetting=-0.3, transfer=0.2)
    """
    if scores.ndim != 2 or not len(scores) or len(scores) != scores.shape[1]:
        raise ValueError(f"retention: scores must be [K, K] of K >= 1 tasks, got {list(scores.shape)}")
    last, own, ahead = scores[-1].double(), scores.diagonal().double(), scores.diagonal(1).double()
    if not bool(last.isfinite().all() & own.isfinite().all()):
        raise ValueError("retention: the scores on the diagonal and in the last row must be known")
    lost = (last - own)[:-1]
    known = len(ahead) > 0 and bool(ahead.isfinite().all())
    return Retention(
        _rounded(last.mean()),
        _rounded(own.mean()),
        _rounded(lost.mean()) if len(lost) else 0.0,
        _rounded(ahead.mean()) if known else None,
    )


def _rounded(x: Tensor) -> float:
    """Without the digits that come of scores in single precision."""
    return round(float(x), 7)
