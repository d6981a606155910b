"""Advantages whose statistics count the group's single actions, so that long rollouts weigh more in them than short ones."""

from __future__ import annotations

from payoff.advantages.normalise import standardise
from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories


@method("capo", kind="advantage", paper="arXiv:2508.02298", sees="group")
def standardised_actions(channel: Channel, traj: Trajectories, *, ddof: int = 0, eps: float = 1e-6) -> Channel:
    """Standardise the credit of every action among all own actions of the group's rollouts (CAPO).

    A_t = (C_t - mean) / (std + eps), mean and std over the known credits of all actions that the group's rollouts took. For a
    credit that is one number per rollout and rollouts of one length it is `grpo`; with other lengths the mean is that of tokens,
    which long rollouts decide, and so the direction of the expected gradient is another one.

    Equal credits get exactly 0. An unknown credit stays unknown and takes no part.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[2.0, 1.0, 1.0], [0.0, 1.0, 9.0]] * 2), torch.ones(4, 1, dtype=torch.bool))
    >>> standardised_actions(credit, four_answers(), eps=0.0).value[:2]  # of 2, 1, 1, 0, 1
    tensor([[ 1.5811,  0.0000,  0.0000],
            [-1.5811,  0.0000,  0.0000]])
    """
    return standardise(channel, traj, over="group", unit="action", ddof=ddof, eps=eps)
