"""How long a rollout is, as a reward channel: to watch, to gate by, or to mix in."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.trajectories import Rewards, Trajectories, place_outcome


@method("length", kind="signal")
def response_length(traj: Trajectories) -> Rewards:
    """How many actions the policy took in the whole trajectory, as the channel "length", paid at its end.

    Its own actions only: tool text and deterministic steps do not count. In a branch the shared beginning does, because the
    finished trajectory is what a reward is about. Always known; 0 where nothing was acted.

    >>> from payoff.examples import four_answers
    >>> response_length(four_answers())["length"].value
    tensor([[0., 0., 3.],
            [0., 2., 0.],
            [0., 0., 3.],
            [1., 0., 0.]])
    """
    length = traj.mask.sum(1).to(torch.get_default_dtype())
    return {"length": place_outcome(length, torch.ones_like(length, dtype=torch.bool), traj)}
