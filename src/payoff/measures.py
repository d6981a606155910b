"""What is told about a batch of rollouts: the metrics of every update that do not depend on how it trains."""

from __future__ import annotations

import torch
from torch import Tensor

from payoff.sets import statistics
from payoff.trajectories import Channel, Rewards, StopReason, Trajectories, outcome

Metrics = dict[str, "float | int | None"]


def describe(traj: Trajectories, rewards: Rewards, own: Channel, truth: Channel) -> Metrics:
    """The metrics of a batch of rollouts, before any update. Invalid verdicts are counted and take part in no mean."""
    value, valid = own.value[:, 0], own.valid[:, 0]
    true, known = outcome(truth, traj)
    acted = traj.mask.sum(1)
    group = statistics(value, traj.group, valid)
    metrics: Metrics = {
        "reward": mean_of_known(value, valid),
        "truth_train": mean_of_known(true, known),
        "entropy": float(-(torch.where(traj.own, traj.logp["old"], 0).double().sum() / traj.own.sum().clamp(min=1))),
        "length": float(acted.double().mean()),
        "steps": float((traj.step.max(1).values + 1).double().mean()),
        "zero_spread": _share_of_groups(group.equal, traj),
        "invalid": float((~valid).double().mean()),
        "truncated": float((traj.stop == StopReason.truncated).double().mean()),
    }
    for name, channel in rewards.items():
        metrics[f"reward/{name}"] = mean_of_known(*outcome(channel, traj))
    return metrics


def _share_of_groups(equal: Tensor, traj: Trajectories) -> float:
    groups, inverse = traj.group.unique(return_inverse=True)
    flags = torch.zeros(len(groups)).scatter(0, inverse, equal.float())
    return float(flags.double().mean())


def mean_of_known(value: Tensor, valid: Tensor) -> float | None:
    """Mean over what is known; None where nothing is."""
    return float(value[valid].double().mean()) if valid.any() else None
