"""Credit for a score of everything gathered so far: what is still to come."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories, per_step, spread_steps


@method("subpo", kind="credit", paper="arXiv:2307.13372")
def remaining_gain(channel: Channel, traj: Trajectories, *, initial: float = 0.0) -> Channel:
    """Weigh every action by what the score still gains from it on (SubPO): C_t = F(all) - F(what stood before the step of t).

    The channel holds F of everything gathered so far after each step, at the step's last position (F of nothing: `initial`); any
    function of the history will do, submodular or not. The same as `progress`, which makes F's gains, followed by `return-to-go`;
    and the gradient is that of E[F(all)], with less variance than `total` of the last score alone.
    Not to be confused with weighing an action by F itself as it stands after it: that pays it for what came before and not for
    what comes.

    [N, T]. Unknown for a step when the last score or the one before that step is. Add a baseline that sees only the past.

    >>> from payoff.examples import four_answers
    >>> score = Channel(torch.tensor([[1.0, 1.0, 3.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> remaining_gain(score, four_answers()).value
    tensor([[3., 2., 2.],
            [1., 0., 0.],
            [3., 2., 2.],
            [1., 0., 0.]])
    """
    score, here, known = per_step(channel, traj, "last")
    last = (here.sum(1, keepdim=True) - 1).clamp(min=0)
    before = torch.cat([torch.full_like(score[:, :1], initial), score[:, :-1]], 1)
    known_before = torch.cat([torch.ones_like(known[:, :1]), known[:, :-1]], 1)
    valid = here & known_before & known.gather(1, last)
    credit = torch.where(valid, score.gather(1, last) - before, 0)
    at = valid.gather(1, traj.step.clamp(min=0).long()) | ~traj.exists
    return Channel(torch.where(at, spread_steps(credit, traj), 0), at, channel.reasons)
