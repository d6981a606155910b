"""Credit in trees of rollouts: a step that several share is worth what comes of it, and is compared with the other ways to go on.

A node is a step as it was sampled once: rows that share it up to its last position are the leaves below it. Its siblings are the
nodes that follow the same node, or begin rollouts of the same group.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from payoff.catalogue import method
from payoff.sets import owner, sets, statistics
from payoff.trajectories import Channel, Trajectories, outcome, per_step, spread_steps


@method("portool", kind="credit", paper="arXiv:2510.26020", sees="group")
def node_values(channel: Channel, traj: Trajectories, *, discount: float = 0.95, of: Literal["mean", "best"] = "mean") -> Channel:
    """Weigh a step by what came of it in all the rollouts that share it (PORTool): R = mean of discount^(steps to the end) outcome.

    The mean (or the largest) is over the rollouts below the step's node, the outcome being all that is paid in a rollout; the last
    step has the outcome itself. So a shared step has one number for all who share it, and with discount 1 a node has the mean of
    its children's, by their leaves. That is the value of the step where continuations are sampled and none is thrown away.
    With discount < 1 the same outcome is worth more to a late step than to an early one. Whether a tool ran is a channel of its own
    with the credit `immediate`, mixed in before the advantage `portool`. Rollouts that share nothing get `total` at discount 1.

    [N, T]; unknown outcomes take no part, and a rollout whose own is unknown has no credit.
    Raises ValueError for a discount outside 0..1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(parent=torch.tensor([-1, 0, -1, -1]), fork=torch.tensor([0, 1, 0, 0]))
    >>> paid = Channel(torch.tensor([[0.0, 2.0, 4.0], [0.0, 4.0, 0.0]] * 2), torch.ones(4, 1, dtype=torch.bool))
    >>> node_values(paid, traj, discount=1.0).value[:2]  # rollouts 0 and 1 share their first step
    tensor([[5., 6., 6.],
            [5., 4., 0.]])
    """
    if not 0 <= discount <= 1:
        raise ValueError(f"node_values: discount must lie in 0..1, got {discount}")
    if of not in ("mean", "best"):
        raise ValueError(f'node_values: of must be "mean" or "best", got {of!r}')
    total, known = outcome(channel, traj)
    node = _nodes(traj)[0]
    here = node >= 0
    steps = torch.arange(node.shape[1], device=traj.device)
    left = (here.sum(1, keepdim=True) - 1 - steps).clamp(min=0)
    worth = total[:, None] * torch.tensor(discount, dtype=total.dtype, device=traj.device) ** left
    found = statistics(worth, node, here & known[:, None])
    value = (found.mean if of == "mean" else found.high).to(total.dtype)
    valid = known[:, None]
    return Channel(torch.where(valid, spread_steps(value, traj), 0), valid, channel.reasons)


@method("portool", kind="advantage", paper="arXiv:2510.26020", sees="group")
def against_siblings(
    channel: Channel,
    traj: Trajectories,
    *,
    fork: float = 1.0,
    rollout: float = 1.0,
    scale: Literal["std", "none"] = "std",
    shared: Literal["trajectory", "node"] = "trajectory",
    eps: float = 1e-6,
) -> Channel:
    """Compare each step with the other ways to go on from the same place, and each rollout with its group (PORTool).

    A = fork (R(s) - mean of siblings) / (std + eps) + rollout (R_i - mean of the group) / (std + eps), R(s) the credit of step s
    and R_i that of rollout i's last step. Siblings count once each, however many rollouts pass through them; divisors are n - 1.
    A step that is the only way on from its place has the first part 0. scale "none" does not divide.

    shared: a step that m rollouts share is trained on in one row, the one that sampled it. "trajectory" weighs it m times, as if it
            were in the loss once for every rollout; "node" once. With the first, undivided, rollout 0 and b continuations of every
            step, the expected gradient is (b - 1) / b of the true one; with the second early steps weigh too little

    [N, T]. Equal siblings get exactly 0. An unknown credit takes no part and stays unknown; so does a rollout whose last step is.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(parent=torch.tensor([-1, 0, -1, -1]), fork=torch.tensor([0, 1, 0, 0]))
    >>> credit = Channel(torch.tensor([[5.0, 6.0, 6.0], [5.0, 4.0, 0.0]] * 2), torch.ones(4, 1, dtype=torch.bool))
    >>> against_siblings(credit, traj, scale="none", rollout=0.0).value[:2]
    tensor([[ 0.,  1.,  0.],
            [ 0., -1.,  0.]])
    """
    credit, _, known = per_step(channel, traj, "last")
    node, parent = _nodes(traj)
    here = node >= 0
    known = known & here
    row = torch.arange(len(traj), device=traj.device)[:, None].expand(node.shape)
    first = row.new_full((int(node.max()) + 2 if node.numel() else 1,), len(traj))
    first = first.scatter_reduce(0, torch.where(known, node, -1).flatten() + 1, row.flatten(), "amin")
    own = statistics(credit, node, known)
    among = statistics(own.mean.to(credit.dtype), parent, known & (first[node + 1] == row))
    last = (here.sum(1, keepdim=True) - 1).clamp(min=0)
    end, settled = credit.gather(1, last), known.gather(1, last)
    group = statistics(end, sets(traj, "group"), settled)

    def divided(distance: Tensor, std: Tensor) -> Tensor:
        return torch.where(std > 0, distance / (std + eps), 0) if scale == "std" else distance

    step = fork * divided(own.mean - among.mean, among.std) + rollout * divided(end.double() - group.mean, group.std)
    if shared == "trajectory":
        step = step * own.count
    at = traj.step.clamp(min=0).long()
    valid = (known & settled).gather(1, at) | ~traj.exists
    value = spread_steps(torch.where(known & settled, step, 0).to(credit.dtype), traj)
    return Channel(torch.where(valid, value, 0), valid, channel.reasons)


def _nodes(traj: Trajectories) -> tuple[Int[Tensor, "N S"], Int[Tensor, "N S"]]:
    """Of each row's steps, the number of the node and that of the place it leaves: -1 where the row has no such step."""
    steps = int(traj.step.max()) + 1 if traj.step.numel() else 1
    at = traj.step.clamp(min=0).long()
    position = torch.where(traj.exists, torch.arange(traj.width, device=traj.device), -1)
    last = position.new_full((len(traj), steps), -1).scatter_reduce(1, at, position, "amax")
    here = last >= 0
    end = last.clamp(min=0)
    whose = traj.id[:, None].expand(end.shape) if traj.parent is None else owner(traj).gather(1, end)
    sampled = whose.unique(return_inverse=True)[1]
    group = sets(traj, "group")[:, 0].unique(return_inverse=True)[1][:, None].expand(sampled.shape)
    step = torch.arange(steps, device=traj.device).expand(sampled.shape)
    owners = int(sampled.max()) + 1 if sampled.numel() else 1
    node = ((group * owners + sampled) * steps + step).unique(return_inverse=True)[1]
    node = torch.where(here, node, -1)
    start = group[:, :1] + (int(node.max()) + 1 if node.numel() else 0)  # before the first step there is the start
    place = torch.where(step == 0, start, pad(node[:, :-1], (1, 0)))
    return node, torch.where(here, place, -1)
