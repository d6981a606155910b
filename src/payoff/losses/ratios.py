"""What the surrogate losses share: which terms count, how far the policy has moved from the one that acted, means of metrics.

No loss lives here. A surrogate is built on `Acted`, and ends by choosing 0 where no term counts, so that nothing which is not there
can enter a number or a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, Trajectories, log_ratio

FARTHEST = 20.0  # nats; beyond it exp overflows in half precision and its gradient is useless in any
Level = Literal["action", "step", "sequence"]


class Acted(NamedTuple):
    """What a surrogate is made of, at every action.

    counts:    the policy's own action, with a known advantage: here and nowhere else is a term
    advantage: 0 where it is unknown; one column where the target is one
    logp:      log pi(a), with gradient; read it where something counts, elsewhere it is whatever was given
    far:       log pi(a) - log old(a), of the action, its step or its sequence, with gradient; not cut; 0 where nobody acted
    """

    counts: Bool[Tensor, "N T"]
    advantage: Float[Tensor, "N #T"]
    logp: Float[Tensor, "N T"]
    far: Float[Tensor, "N T"]


class Clipped(NamedTuple):
    """PPO's terms, with gradient, and what metrics are made of, without.

    took: where a bound took effect; bounded: where the bound on bad actions did
    """

    terms: Float[Tensor, "N T"]
    ratio: Float[Tensor, "N T"]
    kl: Float[Tensor, "N T"]
    took: Bool[Tensor, "N T"]
    bounded: Bool[Tensor, "N #T"]


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
    counts, advantage = counted(traj, target)
    return Acted(counts, advantage, evaluation.logp, log_ratio(evaluation.logp, traj.logp["old"], traj, level=level))


def terms_that_count(traj: Trajectories, target: Channel) -> Bool[Tensor, "N T"]:
    """The policy's own actions with a known target; no new tensor where all are known.

    >>> from payoff.examples import four_answers
    >>> terms_that_count(four_answers(), Channel(torch.ones(4, 1), torch.tensor([[True], [False], [True], [True]]))).sum(1)
    tensor([3, 0, 3, 1])
    """
    if target.valid.shape[1] == 1 and target.valid.all():
        return traj.own
    return traj.own & target.valid


def counted(traj: Trajectories, target: Channel) -> tuple[Bool[Tensor, "N T"], Float[Tensor, "N #T"]]:
    """Where there is a term, and the advantage there; one column where the target is one, 0 where it is unknown.

    >>> from payoff.examples import four_answers
    >>> counted(four_answers(), Channel(torch.ones(4, 1), torch.tensor([[True], [False], [True], [True]])))[1].T
    tensor([[1., 0., 1., 1.]])
    """
    counts = terms_that_count(traj, target)
    known = target.valid if target.value.shape[1] == target.valid.shape[1] == 1 else counts
    return counts, torch.where(known, target.value, 0)


def clipped(
    counts: Bool[Tensor, "N T"],
    advantage: Float[Tensor, "N #T"],
    far: Float[Tensor, "N T"],
    low: float,
    high: float,
    *,
    bound: float = math.inf,
) -> Clipped:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A), and at most -bound A where A < 0; rho = exp(far), far cut at +-20 nats.

    There is no gradient where a bound took effect, and d term / d far = -A rho elsewhere: both are computed at once, so that going
    back costs one multiplication.

    >>> far = torch.tensor([[0.5, 0.1]], requires_grad=True)
    >>> found = clipped(torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 1), far, 0.2, 0.2)
    >>> found.terms.detach(), torch.autograd.grad(found.terms.sum(), far)[0]
    (tensor([[-1.2000, -1.1052]]), tensor([[ 0.0000, -1.1052]]))
    """
    with torch.no_grad():
        held = far.clamp(-FARTHEST, FARTHEST)
        ratio, less = held.exp(), -advantage
        free, limited = less * ratio, less * ratio.clamp(1 - low, 1 + high)
        took = limited > free
        value, still = torch.maximum(free, limited), took
        bounded = torch.zeros_like(advantage, dtype=torch.bool)
        if bound < math.inf:
            most = bound * less
            bounded = (advantage < 0) & (value > most)
            value, still = torch.where(bounded, most, value), took | bounded
        slope = torch.where(counts & (held == far) & ~still, free, 0)
        value = torch.where(counts, value, 0)
        kl = (ratio - 1).sub_(held)
    return Clipped(_Sloped.apply(far, value, slope), ratio, kl, took, bounded)


class _Sloped(torch.autograd.Function):
    """`value`, with `slope` as its derivative by `x`."""

    @staticmethod
    def forward(context: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        context.save_for_backward(slope)
        return value

    @staticmethod
    def backward(context: Any, *given: Tensor) -> tuple[Tensor, None, None]:
        return given[0] * context.saved_tensors[0], None, None


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
    numbers = {name: number.detach() for name, number in numbers.items()}
    dtype = next((number.dtype for number in numbers.values() if number.is_floating_point()), torch.float32)
    share = counts.to(torch.promote_types(dtype, torch.float32))
    totals = [counts.count_nonzero(), *(_total(counts, share, number) for number in numbers.values())]
    size, *sums = torch.stack([total.double() for total in totals]).tolist()  # one read from the device, not one for each
    if not all(map(math.isfinite, sums)):  # what does not count may be anything, and 0 times that is no 0
        sums = [float(torch.where(counts, number, 0).sum(1).double().sum()) for number in numbers.values()]
    return {name: total / max(size, 1.0) for name, total in zip(numbers, sums, strict=True)}


def _total(counts: Bool[Tensor, "N T"], share: Float[Tensor, "N T"], number: Tensor) -> Float[Tensor, ""] | Int[Tensor, ""]:
    """The sum over what counts, with no [N, T] copy made of it; rows are added up in float64."""
    if number.dtype == torch.bool:
        return (number & counts).count_nonzero()
    if number.shape[1] == 1:
        return share.sum(1).double().dot(number[:, 0].double())
    return torch.linalg.vecdot(share, number.to(share.dtype)).double().sum()


def check_bounds(name: str, low: float, high: float) -> None:
    """ValueError for bounds of a ratio, 1 - low and 1 + high, that do not allow 1.

    >>> check_bounds("example", 0.2, 0.28)
    """
    if not 0 <= low <= 1 or high < 0:
        raise ValueError(f"{name}: low must lie in [0, 1] and high be at least 0, got low {low} and high {high}")
