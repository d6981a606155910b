"""What the surrogate losses share: which terms count, how far the policy has moved from the one that acted, means of metrics.

No loss lives here. A surrogate is built on `Acted`: its advantage is 0 and its log-ratio exactly 0 where no term counts, so
nothing that is not there can enter a number or a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, Trajectories, log_ratio

FARTHEST = 20.0  # nats; beyond it exp overflows in half precision and its gradient is useless in any
Level = Literal["action", "step", "sequence"]


class Acted(NamedTuple):
    """What a surrogate is made of, at every action.

    counts:    the policy's own action, with a known advantage: here and nowhere else is a term
    advantage: 0 where nothing counts
    logp:      log pi(a), with gradient; 0 where nothing counts
    far:       log pi(a) - log old(a), of the action, its step or its sequence, with gradient; not cut
    """

    counts: Bool[Tensor, "N T"]
    advantage: Float[Tensor, "N T"]
    logp: Float[Tensor, "N T"]
    far: Float[Tensor, "N T"]


def acted(name: str, evaluation: Evaluation, traj: Trajectories, target: Channel, *, level: Level = "action") -> Acted:
    """The parts of a surrogate called `name`; ValueError without traj.logp["old"].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> target = Channel(torch.ones(4, 1), torch.tensor([[True], [False], [True], [True]]))
    >>> acted("example", Evaluation(traj.logp["old"] + 0.5, {}), traj, target).far[0]
    tensor([0.5000, 0.5000, 0.5000])
    """
    if "old" not in traj.logp:
        raise ValueError(f'{name}: needs traj.logp["old"], the log-probabilities of the policy that acted')
    counts = traj.own & target.valid
    far = log_ratio(evaluation.logp, traj.logp["old"], traj, level=level)
    return Acted(counts, torch.where(counts, target.value, 0), torch.where(counts, evaluation.logp, 0), far)


def mean_over(counts: Bool[Tensor, "N T"], number: Float[Tensor, "N T"]) -> Float[Tensor, "N 1"]:
    """The mean of a trajectory's numbers over the terms that count; 0 where none does.

    >>> mean_over(torch.tensor([[True, True, False]]), torch.tensor([[1.0, 3.0, torch.nan]]))
    tensor([[2.]])
    """
    return torch.where(counts, number, 0).sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp(min=1)


def means(counts: Bool[Tensor, "N T"], numbers: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean of each metric over the terms that count; 0 where none does.

    >>> means(torch.tensor([[True, False]]), {"ratio": torch.tensor([[2.0, 9.0]])})
    {'ratio': 2.0}
    """
    size = counts.count_nonzero().double().clamp(min=1)
    shares = [_total(counts, number.detach()) / size for number in numbers.values()]
    return dict(zip(numbers, torch.stack(shares).tolist(), strict=True))  # one read from the device, not one for each


def _total(counts: Bool[Tensor, "N T"], number: Tensor) -> Float[Tensor, ""]:
    """The sum over what counts; whole rows in the input's precision, so that no [N, T] copy in float64 is made."""
    if number.dtype == torch.bool:
        return (number & counts).count_nonzero().double()
    return torch.where(counts, number, 0).sum(1).double().sum()


def check_bounds(name: str, low: float, high: float) -> None:
    """ValueError for bounds of a ratio, 1 - low and 1 + high, that do not allow 1.

    >>> check_bounds("example", 0.2, 0.28)
    """
    if not 0 <= low <= 1 or high < 0:
        raise ValueError(f"{name}: low must lie in [0, 1] and high be at least 0, got low {low} and high {high}")
