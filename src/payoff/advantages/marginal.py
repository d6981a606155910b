"""Advantages of a reward that belongs to the group as a whole: the likelihood of the reference, averaged over its reasonings."""

from __future__ import annotations

import torch

from payoff.advantages.actions import greatest
from payoff.catalogue import method
from payoff.sets import rank, sets, sums
from payoff.trajectories import Channel, Trajectories, at_start, constant


@method("likelihood-rewards", kind="advantage", paper="arXiv:2602.03979", sees="group")
def without_it(channel: Channel, traj: Trajectories) -> Channel:
    """What the log of the group's mean likelihood would lose without the rollout (JEPO, in Likelihood-Based Reward Designs).

    A_i = log((1/G) sum_j exp C_j) - log((1/(G-1)) sum_{j != i} exp C_j), C_j = log P(reference | reasoning j) the credit at the
    rollout's first action. The second part knows nothing of rollout i, so the gradient added up over the group is exactly that of
    E[log-mean-exp of G rollouts], which is at least E[C] (G = 1) and grows with G towards the log of the reference's marginal
    likelihood: a reasoning need not serve every time if it serves greatly at times.

    As one column [N, 1]. Multiplying all likelihoods by a number changes nothing. Equal credits get exactly 0, and so does the only
    known rollout of a group; the unknown take no part.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[0.1], [0.2], [0.4], [0.8]]).log(), torch.ones(4, 1, dtype=torch.bool))
    >>> without_it(credit, four_answers().replace(group=torch.zeros(4, dtype=torch.int64))).value.T
    tensor([[-0.2187, -0.1446,  0.0225,  0.4745]])
    """
    number, known = at_start(channel, traj)
    key = sets(traj, "group")[:, 0]
    x = torch.where(known, number, 0).double()
    top = known & (rank(number, key, known, traj.id) == 0)
    others = known & ~top
    # From the top of its set everyone else's sum is lost to rounding, so its others are added up by themselves.
    high, second = greatest(x, key, known), greatest(x, key, others)
    share = torch.where(known, (x - high).exp(), 0)
    g, whole = sums(known.double(), key), sums(share, key).clamp(min=1e-300)
    left = torch.where(top, sums(torch.where(others, (x - second).exp(), 0), key), whole - share).clamp(min=1e-300)
    without = torch.where(top, second, high) + (left / (g - 1).clamp(min=1)).log()
    value = torch.where(known & (g > 1), high + (whole / g.clamp(min=1)).log() - without, 0)
    return constant(value.to(channel.value.dtype), known, channel.reasons)
