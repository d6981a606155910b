"""Outcome rewards that charge for length. Length is how many actions the policy took in the whole trajectory."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories, place_outcome


@method("soft-overlong", kind="shaping", paper="arXiv:2503.14476")
def soft_overlong(channel: Channel, traj: Trajectories, *, limit: int, margin: int, penalty: float = 1.0) -> Channel:
    """Charge for coming near the length limit, ever more (soft overlong punishment, DAPO, eq. 13).

    With L actions: 0 up to limit - margin; then penalty * (limit - margin - L) / margin; -penalty beyond the limit.
    Added at the end of the trajectory to whatever is paid there. limit is the paper's L_max (the trainer's limit on new tokens),
    margin its L_cache. The paper: limit 20480, margin 4096.

    margin 0 is a step: -penalty beyond the limit, nothing up to it. What was unknown stays unknown.
    Raises ValueError unless 0 <= margin <= limit.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> right = place_outcome(torch.ones(4), torch.ones(4, dtype=torch.bool), traj)
    >>> soft_overlong(right, traj, limit=3, margin=2).value
    tensor([[0.0000, 0.0000, 0.0000],
            [0.0000, 0.5000, 0.0000],
            [0.0000, 0.0000, 0.0000],
            [1.0000, 0.0000, 0.0000]])
    """
    if not 0 <= margin <= limit:
        raise ValueError(f"soft_overlong: margin must lie in 0..limit, got margin {margin} and limit {limit}")
    length = _actions(traj)
    part = (limit - margin - length) / margin if margin else torch.zeros_like(length)
    charge = torch.where(length > limit, -1.0, part.clamp(max=0))
    return _charge(channel, penalty * charge, traj)


@method("length-penalty", kind="shaping", paper="arXiv:2502.18770")
def length_penalty(channel: Channel, traj: Trajectories, *, rate: float = 0.01, free: int = 300) -> Channel:
    """Charge a fixed rate for every action beyond a free number: -rate * max(0, L - free), added at the trajectory's end.

    PAR applies it to the raw score, before squashing; the references' scores must then carry the same penalty.
    Unbounded in L. What was unknown stays unknown. Raises ValueError for a negative `free`.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> right = place_outcome(torch.ones(4), torch.ones(4, dtype=torch.bool), traj)
    >>> length_penalty(right, traj, rate=0.25, free=1).value
    tensor([[0.0000, 0.0000, 0.5000],
            [0.0000, 0.7500, 0.0000],
            [0.0000, 0.0000, 0.5000],
            [1.0000, 0.0000, 0.0000]])
    """
    if free < 0:
        raise ValueError(f"length_penalty: free must be at least 0, got {free}")
    return _charge(channel, -rate * (_actions(traj) - free).clamp(min=0), traj)


def _actions(traj: Trajectories) -> Float[Tensor, " N"]:
    # In a branch the shared beginning counts too: the finished trajectory is what is judged.
    return traj.mask.sum(1).double()


def _charge(channel: Channel, amount: Float[Tensor, " N"], traj: Trajectories) -> Channel:
    """`amount` more at each trajectory's end."""
    paid = torch.where(traj.exists & channel.valid, channel.value, 0)
    more = place_outcome(amount.to(channel.value.dtype), torch.ones_like(traj.length, dtype=torch.bool), traj)
    return Channel(torch.where(channel.valid, paid + more.value, 0), channel.valid, channel.reasons)
