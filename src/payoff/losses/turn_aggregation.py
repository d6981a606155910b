"""Aggregation by turns: what a long turn, and a rollout of many turns, weighs against others."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method
from payoff.losses.aggregation import _share
from payoff.losses.ratios import terms_that_count
from payoff.trajectories import Channel, Trajectories


@method("flow-grpo-agentflow", kind="aggregation", paper="arXiv:2510.05592", sees="batch")
def turn_mean(target: Channel, traj: Trajectories) -> Float[Tensor, "N T"]:
    """Every rollout weighs the same, its turns share that, and their terms share the turn's (Flow-GRPO of AgentFlow, eq. 5).

    1 / (terms of the turn * turns that have any * rollouts that have any), a turn being a step. With the outcome credited to every
    turn (`total`, then `grpo` over rollouts) it is that paper's objective; the mean and the deviation are over rollouts, not over
    turns, of which long rollouts have more. For rollouts of K turns of one action the expected gradient is 1 / K of the true one;
    where K is a choice, a turn of a rollout with many counts less, and what goes with few turns is learned in another proportion.

    One turn each: `sequence-mean-token-mean`.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(step=torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]]).int())
    >>> target = Channel(torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> turn_mean(target, traj)
    tensor([[0.0625, 0.0625, 0.1250],
            [0.1250, 0.1250, 0.0000],
            [0.1250, 0.0625, 0.0625],
            [0.2500, 0.0000, 0.0000]])
    """
    counts = terms_that_count(traj, target)
    steps = int(traj.step.max()) + 1 if traj.step.numel() else 1
    at = traj.step.clamp(min=0).long()
    terms = torch.zeros(len(traj), steps, dtype=torch.int64, device=traj.device).scatter_add_(1, at, counts.long())
    turns = (terms > 0).sum(1, keepdim=True)
    return _share(counts, terms.gather(1, at) * turns * (turns > 0).sum(), target)
