"""Verdicts of 0 and 1 that are wrong at known rates: what was meant, recovered on average; and the rate, from appeals.

All of it assumes that whether a verdict is flipped depends on the answer only through its being right. A verifier that errs on
particular answers, the kind a policy finds and exploits, is not corrected by any of this.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories, outcome, place_outcome

Rate = float | str


@method("noisy-rlvr-correction", kind="shaping", paper="arXiv:2510.00915")
def backward_correction(channel: Channel, traj: Trajectories, *, false_positive: Rate, false_negative: Rate) -> Channel:
    """Replace a noisy verdict by the number whose mean, over the noise, is the right verdict (backward correction).

    r' = (r - false_positive) / (1 - false_positive - false_negative): E[r' | right] = 1, E[r' | wrong] = 0, so the policy gradient
    is that of the clean reward, with more variance. r' leaves [0, 1], and clipping it back would bring the bias back.

    false_positive, false_negative: P(1 | wrong) and P(0 | right); a number, or the field of each item that has it

    Where the rates are the same throughout a group this is an affine map: dividing by the group's spread undoes it altogether, and
    subtracting the group's mean leaves a factor. It matters without a baseline, with one for the batch, where rates differ from
    start to start, and where other rewards are added.

    Paid at the end; unknown stays unknown. Raises ValueError for rates outside [0, 1) or with a sum of 1 or more, for a verdict
    other than 0 and 1, and for items that lack the field.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> verdict = place_outcome(torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(backward_correction(verdict, traj, false_positive=0.1, false_negative=0.4), traj)[0]
    tensor([ 1.8000, -0.2000,  1.8000, -0.2000])
    """
    verdict, valid = _verdicts("backward_correction", channel, traj)
    wrong, missed = _rates("backward_correction", traj, verdict, false_positive, false_negative)
    return place_outcome((verdict - wrong) / (1 - wrong - missed), valid, traj, channel.reasons)


@method("noisy-rlvr-forward", kind="shaping", paper="arXiv:2510.00915")
def forward_correction(channel: Channel, traj: Trajectories, *, false_negative: Rate) -> Channel:
    """Weigh noisy verdicts so that right answers get nothing on average and wrong ones are pushed down (forward correction).

    r' = false_negative where the verdict is 1, false_negative - 1 where it is 0. E[r' | right] = 0 and E[r' | wrong] =
    -(1 - false_positive - false_negative), so the gradient is that factor times the clean one; the rate of false positives need not
    be known. It is r minus a constant: the size of r' is at most 1, and in a group with one rate any baseline of the group makes it
    equal to the raw verdict.

    false_negative: P(0 | right); a number, or the field of each item that has it. Where false_positive or it differ from start to
    start, starts still weigh by 1 - false_positive - false_negative; `backward_correction` is without that.

    Paid at the end; unknown stays unknown. Raises ValueError as there.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> verdict = place_outcome(torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(forward_correction(verdict, traj, false_negative=0.25), traj)[0]
    tensor([ 0.2500, -0.7500,  0.2500, -0.7500])
    """
    verdict, valid = _verdicts("forward_correction", channel, traj)
    _, missed = _rates("forward_correction", traj, verdict, 0.0, false_negative)
    return place_outcome(verdict - (1 - missed), valid, traj, channel.reasons)


def appealed_rate(positives: int, negatives: int, *, checked: int, overturned: int) -> float:
    """The rate of false negatives, from a random share of the negative verdicts that a better verifier looked at again.

    With n0 negatives of which `checked` were appealed and `overturned` turned out right: missed = n0 overturned / checked, rate =
    missed / (n1 + missed). False positives among the n1 positives are counted as right, which makes the rate slightly too small.
    0 where nothing was positive and nothing overturned. Raises ValueError for counts that contradict one another.

    >>> appealed_rate(60, 40, checked=10, overturned=5)
    0.25
    """
    if not 0 <= overturned <= checked <= negatives or positives < 0 or (negatives > 0) != (checked > 0):
        raise ValueError(
            "appealed_rate: wants 0 <= overturned <= checked <= negatives, and some checked where there are negatives; got "
            f"{positives} positives, {negatives} negatives, {checked} checked, {overturned} overturned"
        )
    missed = negatives * overturned / checked if checked else 0.0
    return missed / (positives + missed) if missed else 0.0


def _verdicts(name: str, channel: Channel, traj: Trajectories) -> tuple[Float[Tensor, " N"], Tensor]:
    verdict, valid = outcome(channel, traj)
    odd = valid & (verdict != 0) & (verdict != 1)
    if odd.any():
        row = int(odd.nonzero()[0, 0])
        raise ValueError(f"{name}: verdicts must be 0 or 1, trajectory {int(traj.id[row])} has {float(verdict[row])}")
    return verdict, valid


def _rates(
    name: str, traj: Trajectories, like: Float[Tensor, " N"], false_positive: Rate, false_negative: Rate
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    wrong, missed = (_rate(name, traj, like, rate) for rate in (false_positive, false_negative))
    for rate in (wrong, missed):
        if not ((rate >= 0) & (rate < 1)).all():
            raise ValueError(f"{name}: a rate must lie in 0 <= rate < 1, got {float(rate[~((rate >= 0) & (rate < 1))][0])}")
    if (wrong + missed >= 1).any():
        raise ValueError(f"{name}: false_positive + false_negative must be < 1, or the verdict says nothing or the opposite")
    return wrong, missed


def _rate(name: str, traj: Trajectories, like: Float[Tensor, " N"], rate: Rate) -> Float[Tensor, " N"]:
    if not isinstance(rate, str):
        return torch.full_like(like, rate)
    if len(traj) and (not traj.items or any(rate not in item for item in traj.items)):
        raise ValueError(f"{name}: no field {rate!r} in the items; it names where each trajectory's rate stands")
    return like.new_tensor([float(item[rate]) for item in traj.items])
