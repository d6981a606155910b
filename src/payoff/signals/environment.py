"""What an environment itself pays for its actions, for the one who asks."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.trajectories import Channel, Rewards, Trajectories


@method("environment-reward", kind="signal")
def environment_reward(traj: Trajectories, *, scale: float = 1.0) -> Rewards:
    """The environment's own reward, times `scale`, paid at the action that earned it, as the channel "environment".

    extras["environment_reward"] [N, T] is recorded by every rollout in an environment and read by nothing but this and the truth of
    the task. 0 beyond the end. Raises ValueError where it was not recorded.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"environment_reward": torch.ones(4, 3)})
    >>> environment_reward(traj, scale=0.5)["environment"].value
    tensor([[0.5000, 0.5000, 0.5000],
            [0.5000, 0.5000, 0.0000],
            [0.5000, 0.5000, 0.5000],
            [0.5000, 0.0000, 0.0000]])
    """
    paid = traj.extras.get("environment_reward")
    if paid is None or paid.shape != traj.mask.shape:
        raise ValueError(
            "environment_reward: needs traj.extras['environment_reward'] [N, T], which rollouts in an environment carry; "
            f"found {None if paid is None else list(paid.shape)}"
        )
    paid = paid if scale == 1 else scale * paid
    if traj.width == 1:  # transitions, which exist: wrappers ask at every step, where every operation tells
        return {"environment": Channel(paid, traj.exists)}
    known = torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device)
    return {"environment": Channel(torch.where(traj.exists, paid, 0), known)}
