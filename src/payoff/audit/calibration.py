"""Does a reward of 0.8 mean right in 8 of 10: squared error, reliability, and a calibration error freed of its bias."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from payoff.audit.asked import Asked, Family
from payoff.audit.estimators import Used, examples, quantile_bins, used
from payoff.audit.intervals_by_cluster import jackknife, ratio_of, sum_by, t_interval
from payoff.audit.measurement import Measurement
from payoff.intervals import Interval, wilson

_RESCALE = (
    "Map the reward to the share that was right at each of its values before it is averaged with other rewards or thresholded."
)

MEASURES = Family(
    "calibration",
    {
        "brier": Asked(
            "How far is the reward, read as a probability, from what was right?",
            "squared error",
            bound=0.25,
            why="a reward that always says one half has 0.25",
            worst=1.0,
            advice=_RESCALE,
            remedies=("mix",),
            needs=10,
        ),
        "calibration-error": Asked(
            "By how much does the reward miss the share that is right at its value?",
            "probability",
            bound=0.1,
            why="a tenth: below it, what a reward is off by is less than what two graders of the same answer differ by",
            worst=0.5,
            advice=_RESCALE,
            remedies=("mix",),
            needs=20,
        ),
        "overconfidence": Asked(
            "Does the reward promise more than is right?",
            "probability",
            bound=0.1,
            why="as for calibration-error; signed, so that a reward that promises too little is not taken for one that overpays",
            worst=0.5,
            advice="Lower the reward by what it promises too much, or count it only above what a wrong answer is seen to get.",
            remedies=("par-centred", "mix"),
            needs=10,
        ),
    },
)


def calibration(
    scores: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    gold: Float64[Tensor, " N"] | None,
    group: Int64[Tensor, " N"],
    *,
    gold_valid: Bool[Tensor, " N"] | None = None,
    link: Literal["identity", "sigmoid"] = "identity",
    bins: int = 10,
    rows: Sequence[Mapping[str, Any]] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """brier, calibration-error, overconfidence: of a reward that is a probability, or its log-odds with link="sigmoid".

    brier: mean (p - y)^2. calibration-error: the root of the squared error of calibration over at most `bins` bins of equal mass,
    without its bias (`squared_calibration_error`); where the estimate of the square falls below 0 the root is given as 0.
    overconfidence: mean p - y. Gold must lie in 0..1. Series of calibration-error, per bin: promised, right, low, high (Wilson, as
    if its rows were independent), count. A reward outside 0..1 has no such reading and every measure says so.

    >>> p, y = torch.tensor([0.8, 0.8, 0.2, 0.2]).double(), torch.tensor([1.0, 1, 0, 0]).double()
    >>> round(calibration(p, torch.ones(4).bool(), y, torch.arange(4))[0].estimate.value, 2)
    0.04
    """
    if gold is None:
        return MEASURES.all_missing("There is no gold to compare with.")
    u = used(scores, valid, group, gold, gold_valid)
    if not len(u.row):
        return MEASURES.all_missing("No row has both a verdict and gold. " + u.note)
    p = torch.sigmoid(u.score) if link == "sigmoid" else u.score
    for what, x in (("The reward", p), ("Gold", u.gold)):
        low, high = (float(end) for end in x.aminmax())
        if low < 0 or high > 1:
            return MEASURES.all_missing(f"{what} runs from {low:g} to {high:g} and is no probability. {u.note}".strip())
    count = u.sizes().double()
    brier = ratio_of(u.sum((p - u.gold).square()), count)
    over = ratio_of(u.sum(p - u.gold), count)
    bin_of = quantile_bins(p, bins)
    shown = {kind: examples(u, sign * (p - u.gold), rows) for kind, sign in (("over", 1.0), ("under", -1.0))}
    error, note = _root(u, p, bin_of)
    return [
        MEASURES.found("brier", brier, bounds, note=u.note, examples=examples(u, (p - u.gold).abs() - 0.5, rows)),
        MEASURES.found(
            "calibration-error",
            error,
            bounds,
            note=" ".join(filter(None, [note, u.note])),
            series=reliability(p, u.gold, bin_of),
            examples=shown["over" if float((p - u.gold).mean()) > 0 else "under"],
        ),
        MEASURES.found("overconfidence", over, bounds, note=u.note, examples=shown["over"]),
    ]


def reliability(p: Float64[Tensor, " M"], gold: Float64[Tensor, " M"], bin_of: Int64[Tensor, " M"]) -> dict[str, list[float]]:
    """Per bin the mean promise, the share right with its Wilson interval (fractional gold rounded to whole rows), the count.

    >>> reliability(torch.tensor([0.5, 0.5]).double(), torch.tensor([1.0, 0.0]).double(), torch.tensor([0, 0]))["right"]
    [0.5]
    """
    size = int(bin_of.max()) + 1
    count = torch.bincount(bin_of, minlength=size)
    promised, right = (sum_by(x, bin_of, size) / count for x in (p, gold))
    ends = [wilson(round(float(share * n)), int(n)) for share, n in zip(right, count, strict=True)]
    return {
        "promised": promised.tolist(),
        "right": right.tolist(),
        "low": [float(end.low or 0.0) for end in ends],
        "high": [1.0 if end.high is None else end.high for end in ends],
        "count": [float(n) for n in count],
    }


def squared_calibration_error(
    p: Float64[Tensor, " M"], gold: Float64[Tensor, " M"], bin_of: Int64[Tensor, " M"], prompt: Int64[Tensor, " M"]
) -> float:
    """sum_b (n_b / n) (d_b^2 - v_b): the squared error of calibration over bins, unbiased where prompts are independent.

    d_b is the mean of d = p - gold in bin b, and v_b the unbiased estimate of its variance from C_b prompts in the bin,
    C / (C - 1) sum_g (D_g - n_g d_b)^2 / n_b^2: the mean of a few rows differs from 0 by chance, and its square by v_b on average.
    With one row per prompt and one value of p in a bin this is arXiv:1909.10155, eq. 6, and exactly unbiased. Bins with
    one prompt only have no v_b: they are left out, and n counts the rest. nan where no bin is left.

    >>> p, y = torch.full((4,), 0.5).double(), torch.tensor([1.0, 0, 1, 0]).double()
    >>> round(squared_calibration_error(p, y, torch.zeros(4).long(), torch.arange(4)), 6)  # 0 - (1/4) / 3
    -0.083333
    """
    size, prompts = int(bin_of.max()) + 1, int(prompt.max()) + 1
    return float(_debiased(_bin_sums(p - gold, bin_of, prompt, size, prompts).sum(0, keepdim=True))[0])


def _bin_sums(
    d: Float64[Tensor, " M"], bin_of: Int64[Tensor, " M"], prompt: Int64[Tensor, " M"], size: int, prompts: int
) -> Float64[Tensor, "G K"]:
    """Per prompt and bin: rows n_g, D_g, D_g^2, n_g D_g, n_g^2 and whether any; all that the error is a function of."""
    cell = prompt * size + bin_of
    rows, total = (sum_by(x, cell, prompts * size).reshape(prompts, size) for x in (torch.ones_like(d), d))
    return torch.cat([rows, total, total.square(), rows * total, rows.square(), (rows > 0).double()], 1)


def _debiased(sums: Float64[Tensor, "G K"]) -> Float64[Tensor, " G"]:
    rows, total, squares, cross, row_squares, prompts = sums.chunk(6, 1)
    enough = prompts > 1.5
    count = rows.clamp(min=1)
    mean = total / count
    spread = squares - 2 * mean * cross + mean.square() * row_squares
    variance = spread * prompts / (prompts - 1).clamp(min=1) / count.square()
    weight = torch.where(enough, rows, 0.0)
    return (weight * (mean.square() - variance)).sum(1) / weight.sum(1)


def _root(u: Used, p: Float64[Tensor, " M"], bin_of: Int64[Tensor, " M"]) -> tuple[Interval | None, str]:
    size = int(bin_of.max()) + 1
    sums = _bin_sums(p - u.gold, bin_of, u.prompt, size, u.prompts)
    square, variance = jackknife(sums, _debiased)
    if math.isnan(square):
        return None, "No bin has rows of two prompts: what chance alone would show cannot be told."
    ends = t_interval(square, variance, u.prompts)
    root = lambda x: None if x is None else math.sqrt(max(0.0, x))
    plain = float((torch.zeros(size, dtype=torch.float64).index_add(0, bin_of, p - u.gold)).abs().sum()) / len(p)
    estimate = ends._replace(value=math.sqrt(max(0.0, square)), low=root(ends.low), high=root(ends.high))
    return estimate, f"Without the correction for chance the expected calibration error reads {plain:.3f} over {size} bins."
