"""Payments of turns, compared with all turns of the group before they are added up to what is still to come."""

from __future__ import annotations

from typing import Literal

import torch

from payoff.advantages.stretches import stretches
from payoff.catalogue import method
from payoff.sets import sets, statistics
from payoff.trajectories import Channel, Trajectories


@method("igpo", kind="advantage", paper="arXiv:2510.14967", sees="group")
def standardised_payments(
    channel: Channel, traj: Trajectories, *, scale: Literal["std", "none"] = "std", ddof: int = 0, eps: float = 1e-6
) -> Channel:
    """Standardise what every turn is paid among all turns of the group, whichever their number (IGPO).

    (r_k - mean) / (std + eps), paid at the end of turn k; mean and std are over the turns of all the group's rollouts in which the
    policy acted, a turn being a step and r_k all that is paid in it. Add the outcome to the gains first (`mix`), and follow it with
    `return_to_go(per="step")`: then A_k = sum_{l >= k} discount^(l - k) (r_l - mean) / std.

    The mean is taken off once for every turn that is left, so a rollout of more turns is charged it more often: where rollouts
    choose how many turns they take this is a bias, towards few turns when the mean is positive and towards many when it is not, and
    no baseline. With one turn each it is `grpo`.

    [N, T]. Equal payments get exactly 0, a group with one turn too. Only known turns count; an unknown one stays unknown. What is
    paid in a step without own actions takes no part and stays as it is. Raises ValueError for an unknown scale.

    >>> from payoff.examples import four_answers
    >>> paid = Channel(torch.tensor([[0.0, 0.0, 2.0], [1.0, 2.0, 0.0]] * 2), torch.ones(4, 1, dtype=torch.bool))
    >>> standardised_payments(paid, four_answers(), scale="none").value
    tensor([[-1.0000, -1.0000,  1.0000],
            [ 0.0000,  1.0000,  0.0000],
            [-0.7500, -0.7500,  1.2500],
            [ 0.2500,  0.0000,  0.0000]])
    """
    if scale not in ("std", "none"):
        raise ValueError(f'standardised_payments: scale must be "std" or "none", got {scale!r}')
    parts = stretches(traj)
    exists, last = parts.step >= 0, parts.last_positions()
    if channel.valid.shape[1] == 1:
        known = parts.exists & channel.valid
    else:
        unknown = parts.size - parts.sums(channel.valid)
        known = parts.exists & (parts.by_step(unknown, exists) == 0)
    paid = torch.where(known, parts.by_step(parts.sums(channel.value.expand(traj.mask.shape)), exists), 0)
    compared = known & parts.acts
    found = statistics(paid, sets(traj, "group").expand(paid.shape), compared, ddof=ddof)
    less = paid - found.mean
    less = less if scale == "none" else less / torch.where(found.std > 0, found.std + eps, 1)
    due = torch.where(compared, less, paid).to(channel.value.dtype)  # what is paid is 0 where it is unknown
    value = due.new_zeros(traj.mask.shape).scatter_add_(1, last.clamp(min=0), due)
    valid = torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device)
    lost = parts.exists & ~known
    if lost.any():  # an unknown turn leaves its last position without verdict
        valid = torch.zeros_like(traj.step, dtype=torch.int32).scatter_add_(1, last.clamp(min=0), lost.int()) == 0
    return Channel(value, valid, channel.reasons)
