"""Credit in trees of rollouts: a step that several share is worth what comes of it.

A node is a step as it was sampled once: rows that share it up to its last position are the leaves below it. How it is compared with
the other ways to go on is the advantage `portool`.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from payoff.catalogue import method
from payoff.sets import nodes, statistics
from payoff.trajectories import Channel, Trajectories, outcome, spread_steps


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
    node = _nodes(traj)
    here = node >= 0
    steps = torch.arange(node.shape[1], device=traj.device)
    left = (here.sum(1, keepdim=True) - 1 - steps).clamp(min=0)
    worth = total[:, None] * torch.tensor(discount, dtype=total.dtype, device=traj.device) ** left
    found = statistics(worth, node, here & known[:, None])
    value = (found.mean if of == "mean" else found.high).to(total.dtype)
    valid = known[:, None]
    return Channel(torch.where(valid, spread_steps(value, traj), 0), valid, channel.reasons)


def _nodes(traj: Trajectories) -> Int[Tensor, "N S"]:
    """The number of the node of each row's steps: -1 where the row has no such step."""
    steps = int(traj.step.max()) + 1 if traj.step.numel() else 1
    at = traj.step.clamp(min=0).long()
    position = torch.where(traj.exists, torch.arange(traj.width, device=traj.device), -1)
    last = position.new_full((len(traj), steps), -1).scatter_reduce(1, at, position, "amax")
    return nodes(traj, last)
