"""Trees of rollouts: a step that several share is compared with the other ways to go on from the same place.

A node is a step as it was sampled once: rows that share it up to its last position are the leaves below it. Its siblings are the
nodes that follow the same node, or begin rollouts of the same group.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from payoff.advantages.stretches import stretches
from payoff.catalogue import method
from payoff.sets import nodes, sets, statistics
from payoff.trajectories import Channel, Trajectories


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
    parts = stretches(traj)
    last = parts.last_positions()
    here, at = parts.exists, last.clamp(min=0)
    if channel.valid.shape[1] == 1:
        known = here & channel.valid
    else:
        unknown = parts.size - parts.sums(channel.valid)
        known = here & (parts.by_step(unknown, parts.step >= 0) == 0)
    credit = torch.where(known, channel.value.expand(traj.mask.shape).gather(1, at), 0)
    end = (here.sum(1, keepdim=True) - 1).clamp(min=0)
    final, settled = credit.gather(1, end), known.gather(1, end)

    def divided(distance: Tensor, std: Tensor) -> Tensor:
        return torch.where(std > 0, distance / (std + eps), 0) if scale == "std" else distance

    nodes = _alone(credit, known, traj) if traj.parent is None else _shared(credit, known, last, traj)
    group = statistics(final, sets(traj, "group"), settled)
    ahead = rollout * divided(final.double() - group.mean, group.std)
    step = fork * divided(nodes.worth - nodes.mean, nodes.std) + ahead
    if shared == "trajectory":
        step = step * nodes.leaves
    kept = known & settled
    beyond = parts.step < 0
    step = torch.where(beyond, 0, parts.of_step(torch.where(kept, step, 0).to(credit.dtype)))
    verdict = beyond | parts.of_step(kept)
    valid = torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device) if verdict.all() else parts.spread(verdict)
    return Channel(parts.spread(step), valid, channel.reasons)


class Nodes(NamedTuple):
    """Of each row's steps, float64: the node's credit, its siblings' mean and standard deviation, and the leaves that count."""

    worth: Float[Tensor, "N S"]
    mean: Float[Tensor, "N #S"]
    std: Float[Tensor, "N #S"]
    leaves: Float[Tensor, "N S"] | float


def _alone(credit: Float[Tensor, "N S"], known: Bool[Tensor, "N S"], traj: Trajectories) -> Nodes:
    """Rollouts that share nothing: only the first steps have siblings, those of the group's other rollouts."""
    found = statistics(credit[:, :1], sets(traj, "group"), known[:, :1])
    worth, rest = credit.double(), credit.shape[1] - 1
    return Nodes(worth, torch.cat([found.mean, worth[:, 1:]], 1), pad(found.std, (0, rest)), 1.0)


def _shared(credit: Float[Tensor, "N S"], known: Bool[Tensor, "N S"], last: Int[Tensor, "N S"], traj: Trajectories) -> Nodes:
    """Rollouts that may share steps: every node counts once, in the row where it is first known."""
    node, place = _nodes(last, traj)
    row = torch.arange(len(traj), device=traj.device)[:, None].expand(node.shape)
    first = row.new_full((int(node.max()) + 2 if node.numel() else 1,), len(traj))
    first = first.scatter_reduce(0, torch.where(known, node, -1).flatten() + 1, row.flatten(), "amin")
    own = statistics(credit, node, known)
    among = statistics(own.mean.to(credit.dtype), place, known & (first[node + 1] == row))
    return Nodes(own.mean, among.mean, among.std, own.count)


def _nodes(last: Int[Tensor, "N S"], traj: Trajectories) -> tuple[Int[Tensor, "N S"], Int[Tensor, "N S"]]:
    """Of each row's steps, the number of the node and that of the place it leaves: -1 where the row has no such step."""
    here = last >= 0
    node = torch.where(here, nodes(traj, last).unique(return_inverse=True)[1], -1)
    start = sets(traj, "group").unique(return_inverse=True)[1] + (int(node.max()) + 1 if node.numel() else 0)
    first = torch.arange(last.shape[1], device=traj.device) == 0  # before which there is the start
    place = torch.where(first, start, pad(node[:, :-1], (1, 0)))
    return node, torch.where(here, place, -1)
