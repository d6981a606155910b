"""The credit of a published script where it departs from its paper, under a name of its own."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.sets import sets, statistics
from payoff.trajectories import Channel, Trajectories, outcome, per_step, spread_steps


@method("spa-rl-script", kind="credit", paper="arXiv:2505.20732", sees="group")
def remaining_turns(channel: Channel, traj: Trajectories) -> Channel:
    """Weigh every turn by the outcome less the others' mean, times the turns that are left after it: what SPA-RL's script does.

    C_k = (R_i - mean of R_j of the others in the group) (n_i - k - 1), turns k = 0 .. n_i - 1. No share of any turn enters, though
    the paper learns them (the model `spa-rl` pays those): all that tells turns apart is how early they come, long rollouts weigh
    more, and the last turn, the answer, gets nothing.

    [N, T]. A group of one compares with itself: 0. Rollouts whose outcome is unknown take no part and have no credit.

    >>> from payoff.examples import four_answers
    >>> paid = Channel(torch.tensor([[0.0, 0.0, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> remaining_turns(paid, four_answers()).value
    tensor([[ 2.,  1.,  0.],
            [-1.,  0.,  0.],
            [ 2.,  1.,  0.],
            [ 0.,  0.,  0.]])
    """
    value, known = outcome(channel, traj)
    found = statistics(value, sets(traj, "group")[:, 0], known)
    advantage = torch.where(known, value.double() - found.others_mean, 0).to(value.dtype)
    here = per_step(channel, traj)[1]
    left = (here.sum(1, keepdim=True) - 1 - torch.arange(here.shape[1], device=traj.device)).clamp(min=0)
    weight = torch.where(left > 0, advantage[:, None] * left, 0)
    valid = known[:, None]
    return Channel(torch.where(valid, spread_steps(weight, traj), 0), valid, channel.reasons)
