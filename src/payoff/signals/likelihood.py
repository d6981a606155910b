"""Rewards made of log-probabilities that the batch already carries."""

from __future__ import annotations

from typing import Literal

import torch

from payoff.catalogue import method
from payoff.trajectories import Channel, Rewards, Trajectories, log_ratio

_FARTHEST = 20.0  # nats; below -20 exp(-d) drowns everything else


@method("kl-penalty", kind="signal", needs=("old", "ref"))
def kl_penalty(traj: Trajectories, *, estimator: Literal["k1", "k2", "k3"] = "k1") -> Rewards:
    """Minus the divergence from the reference, paid at every action, as the channel "kl"; its weight is RLHF's beta.

    With d_t = log pi_old(a_t) - log pi_ref(a_t) of the own actions, pi_old the policy that acted:
    k1: -d_t                      with a return and weight beta exactly the objective E[R] - beta KL(pi, ref)
    k2: -d_t^2 / 2                never positive; a biased estimate, and not the gradient of any of these divergences
    k3: -(exp(-d_t) - 1 + d_t)    never positive, the same mean as k1, but as a reward it descends KL(pi, ref) - KL(ref, pi)
    So k1 is the one to train with here; as a loss it is the other way round (`losses.regularisers`). d is cut at -20 nats in k3.

    0 where the policy did not act. Raises ValueError for another estimator or without traj.logp["old"] and ["ref"].

    >>> from payoff.examples import four_answers
    >>> kl_penalty(four_answers())["kl"].value
    tensor([[-0.5000, -0.5000, -0.5000],
            [-0.5000, -0.5000,  0.0000],
            [-0.5000, -0.5000, -0.5000],
            [-0.5000,  0.0000,  0.0000]])
    """
    if lost := [name for name in ("old", "ref") if name not in traj.logp]:
        raise ValueError(f"kl_penalty: needs traj.logp[{lost[0]!r}]")
    distance = log_ratio(traj.logp["old"], traj.logp["ref"], traj).detach()
    if estimator == "k1":
        divergence = distance
    elif estimator == "k2":
        divergence = distance.square() / 2
    elif estimator == "k3":
        distance = distance.clamp(min=-_FARTHEST)
        divergence = torch.expm1(-distance) + distance
    else:
        raise ValueError(f'kl_penalty: estimator must be "k1", "k2" or "k3", got {estimator!r}')
    return {"kl": Channel(0 - divergence, torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device))}
