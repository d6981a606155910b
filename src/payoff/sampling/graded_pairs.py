"""Pairs of which the better one is nearly right and the worse one not hopeless, for a reward model of programs (VeriRL)."""

from __future__ import annotations

from payoff.catalogue import method
from payoff.sampling.pairings import all_pairs
from payoff.trajectories import Channel, Pairs, Trajectories, at_start


@method("verirl-pairs", kind="pairing", paper="arXiv:2508.18462", sees="group")
def graded_pairs(channel: Channel, traj: Trajectories, *, margin: float = 0.4, right: float = 0.8, least: float = 0.0) -> Pairs:
    """Every two rollouts i, j of a start with s_i > s_j + margin, s_i > right and s_j > least: i is the better one.

    s is the pass rate of a program, in 0..1, or what `trace-back` makes of it. Those that pass nothing are in no pair: they are
    told from the others too easily to teach a reward model anything. A start none of whose rollouts is above `right` gives none.
    Raises ValueError for a margin below 0.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> passing = Channel(torch.tensor([[0.0], [0.25], [0.5], [1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> graded_pairs(passing, four_answers().replace(group=torch.zeros(4, dtype=torch.int64))).index
    tensor([[3, 2],
            [3, 1]])
    """
    pairs = all_pairs(channel, traj, margin=margin)
    score, _ = at_start(channel, traj)
    kept = (score[pairs.index[:, 0]] > right) & (score[pairs.index[:, 1]] > least)
    return Pairs(pairs.index[kept], pairs.label[kept], pairs.weight[kept])
