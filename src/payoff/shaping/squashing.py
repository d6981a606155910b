"""Outcome rewards against the scores of reference answers: PAR, and the other fixed shapes its paper compares.

All of these read the whole outcome of a trajectory and pay the shaped one at its end. The references' scores come with the start:
`traj.items[i]["reference_rewards"]` (or the field that `references` names) is a list of numbers, what the same reward model gives
to other answers to the same prompt, treated in the same way (a length penalty included).
A trajectory without references has no verdict. Shapes fitted to what has been seen so far are in `running`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories, outcome, place_outcome


@method("par", kind="shaping", paper="arXiv:2502.18770")
def par(
    channel: Channel,
    traj: Trajectories,
    *,
    sharpness: float = 1.0,
    references: str = "reference_rewards",
    most: int = 10,
) -> Channel:
    """Pay the probability that the answer beats a reference (Preference as Reward).

    r' = 1/M sum_m sigmoid(sharpness * (r - ref_m)) over the first `most` references; sharpness is the paper's k.
    Bounded in (0, 1), steepest (slope sharpness / 4) where the answer is as good as a reference, and the same when the reward
    model's scale is shifted. sharpness -> infinity gives the share of references beaten. The average of sigmoids is meant, not
    the sigmoid of the average. Under a per-group scale only the curvature of any such shape is left.

    No references, or none that is finite: no verdict. Raises ValueError for sharpness <= 0, most < 1, or a field no item has.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> traj = traj.replace(items=[{**item, "reference_rewards": [1.0]} for item in traj.items])
    >>> scores = place_outcome(torch.tensor([1.0, 3.0, -1.0, 9.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(par(scores, traj), traj)[0]
    tensor([0.5000, 0.8808, 0.1192, 0.9997])
    """
    if sharpness <= 0:
        raise ValueError(f"par: sharpness must be > 0, got {sharpness}")
    return _against_references("par", channel, traj, lambda gap: torch.sigmoid(sharpness * gap), references, most)


@method("par-centred", kind="shaping", paper="arXiv:2502.18770")
def centred(channel: Channel, traj: Trajectories, *, references: str = "reference_rewards", most: int = 10) -> Channel:
    """Pay how far the answer is above the mean reference: r' = r - mean_m ref_m over the first `most` references.

    Not bounded. No finite references: no verdict. Raises ValueError for most < 1 or a field no item has.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> traj = traj.replace(items=[{**item, "reference_rewards": [0.0, 1.0]} for item in traj.items])
    >>> scores = place_outcome(torch.tensor([1.0, 3.0, -1.0, 9.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(centred(scores, traj), traj)[0]
    tensor([ 0.5000,  2.5000, -1.5000,  8.5000])
    """
    return _against_references("centred", channel, traj, lambda gap: gap, references, most)


@method("par-slow-growth", kind="shaping", paper="arXiv:2502.18770")
def slow_growth(
    channel: Channel,
    traj: Trajectories,
    *,
    shift: float = 3.0,
    references: str = "reference_rewards",
    most: int = 10,
) -> Channel:
    """PAR moved to the right, so that the reward is nearly flat where training starts: 1/M sum_m sigmoid(r - shift - ref_m).

    The paper's counter-example to "steep at first, then flat". Bounded in (0, 1).
    No finite references: no verdict. Raises ValueError for most < 1 or a field no item has.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> traj = traj.replace(items=[{**item, "reference_rewards": [1.0]} for item in traj.items])
    >>> scores = place_outcome(torch.tensor([1.0, 4.0, -1.0, 9.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(slow_growth(scores, traj), traj)[0]
    tensor([0.0474, 0.5000, 0.0067, 0.9933])
    """
    return _against_references("slow_growth", channel, traj, lambda gap: torch.sigmoid(gap - shift), references, most)


@method("par-tanh", kind="shaping", paper="arXiv:2502.18770")
def squash_tanh(channel: Channel, traj: Trajectories, *, references: str | None = "reference_rewards", most: int = 10) -> Channel:
    """Pay tanh of the distance to the references: 1/M sum_m tanh(r - ref_m), or tanh(r) with references=None.

    Bounded in (-1, 1), slope 1 at the centre. With references it is 2 PAR - 1 at sharpness 2.
    No finite references: no verdict. Raises ValueError for most < 1 or a field no item has.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> scores = place_outcome(torch.tensor([0.0, 1.0, -1.0, 9.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(squash_tanh(scores, traj, references=None), traj)[0]
    tensor([ 0.0000,  0.7616, -0.7616,  1.0000])
    """
    return _against_references("squash_tanh", channel, traj, torch.tanh, references, most)


@method("par-arctan", kind="shaping", paper="arXiv:2502.18770")
def squash_arctan(channel: Channel, traj: Trajectories, *, references: str | None = "reference_rewards", most: int = 10) -> Channel:
    """Pay arctan of the distance to the references: 1/M sum_m arctan(r - ref_m), or arctan(r) with references=None.

    Bounded in (-pi/2, pi/2), slope 1 at the centre, flattening like 1/r where tanh does exponentially.
    No finite references: no verdict. Raises ValueError for most < 1 or a field no item has.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> scores = place_outcome(torch.tensor([0.0, 1.0, -1.0, 9.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(squash_arctan(scores, traj, references=None), traj)[0]
    tensor([ 0.0000,  0.7854, -0.7854,  1.4601])
    """
    return _against_references("squash_arctan", channel, traj, torch.atan, references, most)


@method("par-polynomial", kind="shaping", paper="arXiv:2502.18770")
def squash_polynomial(
    channel: Channel, traj: Trajectories, *, references: str | None = "reference_rewards", most: int = 10
) -> Channel:
    """Pay a polynomial that imitates the sigmoid: 1/M sum_m f(r - ref_m), or f(r) with references=None.

    f is the fifth-degree least-squares fit to the sigmoid at 100 even points of [-5, 5]; 0 below, 1 above. It misses the sigmoid
    by up to 0.018 and overshoots both ends by 0.011, where it jumps: the paper's check that the exact curve does not matter.
    No finite references: no verdict. Raises ValueError for most < 1 or a field no item has.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> scores = place_outcome(torch.tensor([0.0, 1.0, -1.0, 9.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(squash_polynomial(scores, traj, references=None), traj)[0]
    tensor([0.5000, 0.7189, 0.2811, 1.0000])
    """
    return _against_references("squash_polynomial", channel, traj, _fitted_sigmoid, references, most)


@method("par-log-sigmoid", kind="shaping", paper="arXiv:2502.18770")
def log_sigmoid_centred(
    channel: Channel, traj: Trajectories, *, quantile: float = 0.85, references: str = "reference_rewards"
) -> Channel:
    """Pay the log-probability of beating a good reference (LSC): r' = log sigmoid(r - q).

    q is the given quantile of a normal distribution with the mean and the sample standard deviation (plus 1e-5) of all of the
    trajectory's references. At most 0; linear where the answer is far below q, flat where it is far above.

    Fewer than two finite references: no verdict. Raises ValueError for a quantile outside (0, 1) or a field no item has.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> traj = traj.replace(items=[{**item, "reference_rewards": [0.0, 2.0]} for item in traj.items])
    >>> scores = place_outcome(torch.tensor([1.0, 3.0, -1.0, 0.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(log_sigmoid_centred(scores, traj), traj)[0]
    tensor([-1.6735, -0.4613, -3.4965, -2.5473])
    """
    if not 0 < quantile < 1:
        raise ValueError(f"log_sigmoid_centred: quantile must lie in (0, 1), got {quantile}")
    score, known = outcome(channel, traj)
    scores, given = _reference_scores("log_sigmoid_centred", traj, references, None)
    count = given.sum(1)
    mean = scores.sum(1) / count.clamp(min=1)
    squares = torch.where(given, scores - mean[:, None], 0).square().sum(1)
    std = (squares / (count - 1).clamp(min=1)).sqrt()
    target = mean + NormalDist().inv_cdf(quantile) * (std + 1e-5)
    value = torch.nn.functional.logsigmoid(score.double() - target).to(score.dtype)
    return _paid(value, known, count >= 2, f"fewer than two {references}", channel, traj)


def _against_references(
    name: str,
    channel: Channel,
    traj: Trajectories,
    shape: Callable[[Tensor], Tensor],
    references: str | None,
    most: int,
) -> Channel:
    """The mean of `shape(r - reference)` over the references; `shape(r)` without."""
    if most < 1:
        raise ValueError(f"{name}: most must be at least 1, got {most}")
    score, known = outcome(channel, traj)
    if references is None:
        value = shape(score.double()).to(score.dtype)
        return place_outcome(torch.where(known, value, 0), known, traj, channel.reasons)
    scores, given = _reference_scores(name, traj, references, most)
    count = given.sum(1)
    shaped = torch.where(given, shape(score.double()[:, None] - scores), 0).sum(1) / count.clamp(min=1)
    return _paid(shaped.to(score.dtype), known, count > 0, f"no {references}", channel, traj)


def _paid(
    value: Float[Tensor, " N"],
    known: Bool[Tensor, " N"],
    enough: Bool[Tensor, " N"],
    reason: str,
    channel: Channel,
    traj: Trajectories,
) -> Channel:
    """The shaped outcomes, unknown where the outcome was, or where the references do not suffice and then for that reason."""
    lacking = {int(id): reason for id in traj.id[known & ~enough]}
    valid = known & enough
    return place_outcome(torch.where(valid, value, 0), valid, traj, {**channel.reasons, **lacking})


def _reference_scores(
    name: str, traj: Trajectories, field: str, most: int | None
) -> tuple[Float[Tensor, "N M"], Bool[Tensor, "N M"]]:
    """The finite reference scores of every trajectory in float64, 0 where there are fewer, and which are given."""
    if len(traj) and not any(field in item for item in traj.items):
        raise ValueError(f"{name}: no item has the field {field!r}, the reward model's scores of reference answers")
    rows = [_finite(item, field)[:most] for item in traj.items]
    width = max((len(row) for row in rows), default=0)
    padded = [row + [math.nan] * (width - len(row)) for row in rows]
    scores = torch.tensor(padded, dtype=torch.float64, device=traj.device).reshape(len(traj), width)
    given = scores.isfinite()
    return torch.where(given, scores, 0), given


def _finite(item: Mapping[str, Any], field: str) -> list[float]:
    return [float(score) for score in item.get(field) or () if score is not None and math.isfinite(score)]


@cache
def _sigmoid_coefficients() -> tuple[float, ...]:
    """Of x^0 to x^5, fitted by least squares to the sigmoid at 100 points of [-5, 5]."""
    x = torch.linspace(-5, 5, 100, dtype=torch.float64)
    powers = torch.stack([x**k for k in range(6)], 1)
    return tuple(torch.linalg.lstsq(powers, torch.sigmoid(x)[:, None]).solution[:, 0].tolist())


def _fitted_sigmoid(x: Tensor) -> Tensor:
    inner = sum(c * x.clamp(-5, 5) ** k for k, c in enumerate(_sigmoid_coefficients()))
    return torch.where(x <= -5, 0.0, torch.where(x >= 5, 1.0, inner))
