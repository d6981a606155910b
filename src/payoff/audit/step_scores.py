"""Step scores made into one score for a response, and what either kind of score selects: does judging steps pay here?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from payoff.audit.estimators import standing

_SURE = 1e-6  # a probability nearer to 0 or 1 than this is taken for this, so that its odds are finite


def _logit(p: Sequence[float]) -> list[float]:
    return [math.log(q / (1 - q)) for q in (min(max(x, _SURE), 1 - _SURE) for x in p)]


STEPS_TO_ONE: Mapping[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "max": max,
    "product": math.prod,
    "geometric-mean": lambda p: math.prod(p) ** (1 / len(p)),
    "mean": lambda p: math.fsum(p) / len(p),
    "last": lambda p: p[-1],
    "mean-logit": lambda p: 1 / (1 + math.exp(-math.fsum(_logit(p)) / len(p))),
    "mean-odds": lambda p: math.fsum(math.exp(x) for x in _logit(p)) / len(p),
}


def one_score(steps: Sequence[float], how: str, *, last: int | None = None) -> float:
    """One score for a response from those of its steps, each in 0..1 (the ways of arXiv:2410.01729).

    how:  one of STEPS_TO_ONE. Probabilities of 0 and 1 are taken for 1e-6 less and more where odds are asked for
    last: only so many steps at the end count; None: all
    Raises ValueError for no step, for a way there is not, and for `last` below 1.

    >>> round(one_score([0.9, 0.4], "geometric-mean"), 9), one_score([0.9, 0.4], "last"), one_score([0.2, 0.9, 0.4], "min", last=2)
    (0.6, 0.4, 0.4)
    """
    if how not in STEPS_TO_ONE:
        raise ValueError(f"one_score: no way {how!r}; there are {', '.join(STEPS_TO_ONE)}")
    if last is not None and last < 1:
        raise ValueError(f"one_score: last must be at least 1, got {last}")
    if not steps:
        raise ValueError("one_score: a response without a step has no score")
    return float(STEPS_TO_ONE[how](steps if last is None else steps[-last:]))


def judged_one_against_many(wins: Sequence[bool]) -> tuple[float, list[float]]:
    """Scores of a right answer and of its k wrong rivals, from k comparisons of a judge: as if it gave numbers (arXiv:2410.01729).

    The right one gets its wins + 1, a rival that it beat 1, a rival that beat it k + 2: so it is above all only where it won all,
    and its rank is one more than its losses.

    >>> judged_one_against_many([True, False, True])
    (3.0, [1.0, 5.0, 1.0])
    """
    return float(sum(wins) + 1), [1.0 if won else float(len(wins) + 2) for won in wins]


class Selected(NamedTuple):
    """The share of prompts whose selected response is right, ties shared, by the outcome's score and by that of the steps.

    by_steps, by_outcome: [P] per prompt; keep: the prompts where steps select better, among which a benchmark of them is made
    """

    by_outcome: Float64[Tensor, " P"]
    by_steps: Float64[Tensor, " P"]

    @property
    def keep(self) -> Bool[Tensor, " P"]:
        """Where the steps select better than the outcome."""
        return self.by_steps > self.by_outcome


def steps_against_outcome(
    outcome: Float64[Tensor, " N"], steps: Float64[Tensor, " N"], right: Bool[Tensor, " N"], group: Int64[Tensor, " N"]
) -> Selected:
    """Best-of-N by a score of the outcome and by one of the steps (`one_score`), prompt by prompt (arXiv:2503.20271).

    The prompts to keep for a benchmark that tells judges of steps apart must be chosen with other scores than those that are then
    judged on them.

    >>> found = steps_against_outcome(torch.tensor([1.0, 1.0]).double(), torch.tensor([0.2, 0.9]).double(),
    ...                               torch.tensor([False, True]), torch.tensor([0, 0]))
    >>> found.by_outcome.tolist(), found.by_steps.tolist(), found.keep.tolist()
    ([0.5], [1.0], [True])
    """
    key, prompts = group.unique(return_inverse=True)[1], len(group.unique())

    def chosen(score: Float64[Tensor, " N"]) -> Float64[Tensor, " P"]:
        place = standing(score, key)
        top = (place.below + place.equal == place.count).double() / place.equal
        return torch.zeros(prompts, dtype=torch.float64).index_add(0, key, top * right.double())

    return Selected(chosen(outcome), chosen(steps))
