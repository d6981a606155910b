"""Numbers of all actions of a batch brought to one scale, with their mean taken off for it and put back."""

from __future__ import annotations

from typing import Literal

import torch

from payoff.catalogue import method
from payoff.sets import sets, statistics
from payoff.trajectories import Channel, Trajectories


@method("fine-grained-rlhf", kind="shaping", paper="arXiv:2306.01693", sees="batch")
def restored_mean(
    channel: Channel, traj: Trajectories, *, keep_mean: bool = True, form: Literal["std", "released"] = "std"
) -> Channel:
    """Bring what is paid in a batch to standard deviation 1 and leave its mean where it was (fine-grained RLHF).

    r' = (r - mean) / std + mean over every position of the batch that exists and is known, those that are paid nothing included;
    so zeros do not stay zeros, and signs may change, unless the mean is 0 or the std is 1. It is for the sum of all rewards of the
    paper, before GAE. Advantages are then whitened with keep_mean False.

    form: "released": the published code has the std where the variance belongs, and so divides by sqrt(std)

    std has the count as its divisor. Where all are equal nothing changes. Unknown stays unknown and takes no part.
    Raises ValueError for an unknown form.

    >>> from payoff.examples import four_answers
    >>> paid = Channel(torch.tensor([[4.0, 0.0, 0.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> whole = restored_mean(paid, four_answers()).value[four_answers().exists]
    >>> round(float(whole.mean()), 4), round(float(whole.std(correction=0)), 4)  # the mean was 16/9
    (1.7778, 1.0)
    """
    if form not in ("std", "released"):
        raise ValueError(f'restored_mean: form must be "std" or "released", got {form!r}')
    shape = traj.mask.shape
    valid = channel.valid.expand(shape)
    counts = traj.exists & valid
    value = torch.where(counts, channel.value.expand(shape), 0)
    stats = statistics(value, sets(traj, "batch").expand(shape), counts, ddof=0)
    spread = torch.where(stats.std > 0, stats.std if form == "std" else stats.std.sqrt(), 1)
    scaled = (value.double() - stats.mean) / spread + (stats.mean if keep_mean else 0.0)
    return Channel(torch.where(counts, scaled, 0).to(channel.value.dtype), channel.valid, channel.reasons)
