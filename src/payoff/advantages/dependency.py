"""Weights of rollouts and actions by how much they depend on what the policy was shown: VPPO."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.advantages.actions import known_actions, known_positions, row_blocks, row_counts
from payoff.advantages.arrays import ascending_, at_least, both, keep_, ranks, written
from payoff.catalogue import method
from payoff.sets import sets, statistics
from payoff.trajectories import Channel, Trajectories

_FARTHEST, _LARGEST, _NARROWEST = 20.0, 10.0, 1e-6


@method("vppo", kind="advantage", paper="arXiv:2510.09285", needs=("old",), sees="batch")
def context_dependency(
    channel: Channel,
    traj: Trajectories,
    *,
    corrupted: str = "corrupted",
    share: float = 0.4,
    least: float = 0.9,
    rest: Literal["zero", "unknown"] = "zero",
) -> Channel:
    """Weigh an advantage by how much the rollout, and each action, depends on a context that can be corrupted (VPPO).

    S_t = exp(d) - d - 1 of the own actions, d = log pi_corrupted - log pi_old, cut to 20 nats, and S to 10; on average over actions
    of the policy S_t is KL(pi(. | context), pi(. | corrupted)), the cut aside. traj.logp[corrupted] is what the policy that acted
    says of these same actions with a corrupted context (a blackened image, another prompt).
    A_t = weight_i A_t at the ceil(share length_i) actions of largest S_t, and 0 at others; ties keep the first. weight_i = least +
    z_i (1 - least) / mean z, z_i the batch's min-max of the rollouts' mean S: on average 1. 1 for all where these differ by less
    than 1e-6, or where there is one.

    rest: "zero" leaves the other actions in the average over actions, as published; "unknown" takes them out of it
    share 1 and least 1: the advantage as it is. Where the weights say something of the reward the expected direction changes.

    [N, T]. Rollouts without a known advantage take no part. Raises ValueError for a share or a least outside (0, 1] and [0, 1], and
    without those log-probabilities.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(logp={"corrupted": torch.tensor([[-1.0, -2.0, -1.5]]).repeat(4, 1)})
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> context_dependency(advantage, traj, least=1.0).value
    tensor([[ 0.,  1.,  1.],
            [ 0., -1.,  0.],
            [ 0.,  1.,  1.],
            [-1.,  0.,  0.]])
    """
    if not 0 < share <= 1 or not 0 <= least <= 1:
        raise ValueError(f"context_dependency: share must lie in (0, 1] and least in [0, 1], got {share} and {least}")
    if lost := [name for name in ("old", corrupted) if name not in traj.logp]:
        raise ValueError(f"context_dependency: needs traj.logp[{lost[0]!r}]; there are {sorted(traj.logp)}")
    count = row_counts(traj.own)
    total, kept = _dependent(traj.logp[corrupted].detach(), traj.logp["old"].detach(), (share * count - 1e-9).ceil().long(), traj)
    mean = total / count.clamp(min=1)
    known = known_actions(channel, traj)
    takes_part = (count if known is traj.own else row_counts(known)) > 0
    batch = sets(traj, "batch")[:, 0]
    found = statistics(mean, batch, takes_part)
    wide = (found.count >= 2) & (found.high - found.low >= _NARROWEST)
    z = torch.where(wide, (mean - found.low) / (found.high - found.low).clamp(min=_NARROWEST), 0)
    usual = statistics(z, batch, takes_part).mean
    weight = torch.where(wide, least + z * (1 - least) / usual.clamp(min=1e-12), 1)
    value, here = channel.value * weight[:, None].to(channel.value.dtype), known_positions(channel, traj)
    here = kept if here is traj.exists else both(kept, here)
    value = written(value, here) if value.shape[1] == 1 else keep_(value, here)
    valid = channel.valid if rest == "zero" else both(channel.valid, kept)
    return Channel(value, valid, channel.reasons)


def _dependent(
    corrupted: Float[Tensor, "N T"], old: Float[Tensor, "N T"], wanted: Int[Tensor, " N"], traj: Trajectories
) -> tuple[Float[Tensor, " N"], Bool[Tensor, "N T"]]:
    """The sum of S over each row's own actions, float64, and its `wanted` own actions of largest S, among equals the first ones."""
    total = torch.zeros(len(traj), dtype=torch.float64, device=traj.device)
    kept = torch.empty_like(traj.own)
    place = (traj.width - wanted).clamp(max=traj.width - 1)
    edges = torch.stack([place, (place - 1).clamp(min=0)], 1)
    for rows in row_blocks(traj):
        own, number = traj.own[rows], wanted[rows, None]
        distance = keep_(corrupted[rows] - old[rows], own).clamp_(-_FARTHEST, _FARTHEST)
        dependency = torch.expm1(distance).sub_(distance).clamp_(0, _LARGEST)  # 0 where it is not the policy's own
        total[rows] = dependency.sum(1, dtype=torch.promote_types(dependency.dtype, torch.float32)).double()
        edge = ascending_(ranks(distance.copy_(dependency))).gather(1, edges[rows]).view(dependency.dtype)
        chosen = at_least(dependency, edge[:, :1], out=kept[rows])
        # Where the next one is as large; wherever the least is 0 that is so, as what is not the policy's own is 0.
        crowded = ((edge[:, 0] == edge[:, 1]) & (wanted[rows] < traj.width)).nonzero().squeeze(1)
        if len(crowded):
            x, line, there = dependency[crowded], edge[crowded, :1], own[crowded]
            above, level = there & (x > line), there & (x == line)
            left = number[crowded] - above.sum(1, keepdim=True)
            chosen[crowded] = above | (level & (level.cumsum(1) <= left))
    return total, kept
