"""Rewards that pay more for the successes that the policy itself found unlikely."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.sets import rank, sets, statistics
from payoff.trajectories import Channel, Trajectories, outcome, place_outcome


@method("unlikeliness-reward", kind="shaping", paper="arXiv:2506.02355", needs=("old",), sees="group")
def unlikeliness(channel: Channel, traj: Trajectories, *, strength: float = 0.25) -> Channel:
    """Take from a reward the more, the likelier its rollout was among those of its start (unlikeliness reward).

    r' = r (1 - strength k / n), k = 0 for the least likely of the n rollouts with a verdict, n - 1 for the likeliest, by the mean
    of traj.logp["old"] over the actions of each; equally likely ones share their mean rank. strength is the paper's beta_rank.
    Follow it with `total` and `grpo`, and take more than one step on a batch: the likely successes reach the clip first.

    A reward of 0 stays 0, so right stays above wrong while strength < 1; strength 0 changes nothing. A group of successes alone,
    which says nothing otherwise, now says which to prefer: sum r' = n - strength (n - 1) / 2. A group of one keeps its reward.
    The paper's code breaks ties by position; here equal sequences are paid equally.

    Paid at the end; unknown stays unknown. Raises ValueError without traj.logp["old"], for a strength outside 0..1, and for a
    negative reward, for which the sign would turn.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(logp={"old": torch.tensor([[-3.0], [-1.0], [-1.0], [-2.0]]).expand(4, 3)})
    >>> reward = place_outcome(torch.ones(4), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(unlikeliness(reward, traj), traj)[0]
    tensor([1.0000, 0.8750, 0.8750, 1.0000])
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"unlikeliness: strength must lie in 0..1, got {strength}")
    if "old" not in traj.logp:
        raise ValueError('unlikeliness: needs traj.logp["old"], the log-probabilities of the policy that acted')
    reward, valid = outcome(channel, traj)
    if (reward < 0).any():
        row = int((reward < 0).nonzero()[0, 0])
        raise ValueError(f"unlikeliness: rewards must be at least 0, trajectory {int(traj.id[row])} has {float(reward[row])}")
    acted = traj.own.sum(1)
    likely = torch.where(traj.own, traj.logp["old"], 0).double().sum(1) / acted.clamp(min=1)
    ranked = valid & (acted > 0)
    group = sets(traj, "group")[:, 0]
    count = statistics(reward, group, ranked).count
    below, above = rank(-likely, group, ranked, traj.id), rank(likely, group, ranked, traj.id)
    place = (below + count - 1 - above) / 2
    share = torch.where(ranked, 1 - strength * place / count.clamp(min=1), 1)
    return place_outcome(reward * share.to(reward.dtype), valid, traj, channel.reasons)
