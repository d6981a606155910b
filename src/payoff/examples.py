"""Small trajectories to try a method on, in examples and at a prompt."""

from __future__ import annotations

import torch

from payoff.trajectories import Trajectories


def four_answers() -> Trajectories:
    """Four short rollouts of two starts: T = 3, lengths 3, 2, 3, 1, every action a step of its own, ids 0 to 3.

    >>> four_answers().mask.int()
    tensor([[1, 1, 1],
            [1, 1, 0],
            [1, 1, 1],
            [1, 0, 0]], dtype=torch.int32)
    """
    length = torch.tensor([3, 2, 3, 1])
    position = torch.arange(3).repeat(4, 1)
    exists = position < length[:, None]
    return Trajectories(
        mask=exists,
        length=length,
        group=torch.tensor([0, 0, 1, 1]),
        step=torch.where(exists, position, -1).int(),
        stop=torch.zeros(4, dtype=torch.int64),
        actions=position.clone(),
        logp={"old": torch.where(exists, -1.0, 0.0), "ref": torch.where(exists, -1.5, 0.0)},
        id=torch.arange(4),
        items=[
            {"prompt": prompt, "response": response, "reference": reference}
            for prompt, response, reference in (("1+1=", "2", "2"), ("1+1=", "3", "2"), ("2+3=", "5", "5"), ("2+3=", "", "5"))
        ],
    )
