"""Rewards of objects that are built action by action: what the environment pays, and the terms that make sampling soft RL."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.trajectories import Channel, Rewards, StopReason, Trajectories, place_outcome


@method("log-reward", kind="signal", paper="arXiv:2106.04399")
def log_reward(traj: Trajectories) -> Rewards:
    """What the environment pays for the finished object, in logarithms, at the end: the channel "log_reward".

    log R = extras["log_reward"] [N, T+1] at the final state, as the rollout recorded it; log R of the states before it is what
    `fl-gfn` reads. Its weight (`mix`) is the exponent of the reward, R^beta.
    Without verdict: a trajectory that was cut short, broke a rule or met an error, for there is no object; a log R that is not
    finite.
    Raises ValueError without extras["log_reward"].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"log_reward": torch.tensor([[0.0, 1.0, 2.0, 3.0]]).repeat(4, 1)})
    >>> log_reward(traj)["log_reward"].value
    tensor([[0., 0., 3.],
            [0., 2., 0.],
            [0., 0., 3.],
            [1., 0., 0.]])
    """
    if "log_reward" not in traj.extras:
        raise ValueError('log_reward: needs extras["log_reward"] [N, T+1], which policies that build objects record')
    last = traj.extras["log_reward"].gather(1, traj.length[:, None].long())[:, 0]
    finished = traj.stop == StopReason.finished
    valid = finished & last.isfinite()
    reasons = {}
    if not valid.all():
        told = {True: "log R is not finite", False: "no finished object"}
        reasons = {int(traj.id[row]): told[bool(finished[row])] for row in (~valid).nonzero().flatten().tolist()}
    return {"log_reward": place_outcome(last, valid, traj, reasons)}


@method("soft-rl", kind="signal", paper="arXiv:2402.10309")
def soft_reward(traj: Trajectories) -> Rewards:
    """log P_B - log pi at every action, the channel "soft": with log R at the end, maximising it is sampling in proportion to R.

    The sum with `log-reward` is log R + sum_t log P_B - log pi, minus the residual of trajectory balance but for log Z, whose
    expectation is log Z - KL(policy, P_B R / Z). So any credit and advantage trains a GFlowNet: `total` with `rloo` and
    `policy-gradient`, or `lambda-return` with values, which are then log-flows.

    log P_B is extras["log_backward"], 0 where there is none: then this is an entropy bonus of weight 1, for any policy. log pi is
    that of the policy, logp["policy"], where it explored while acting, else logp["old"]. 0 where the policy did not act.
    Raises ValueError without logp["old"] and logp["policy"].

    >>> from payoff.examples import four_answers
    >>> soft_reward(four_answers())["soft"].value
    tensor([[1., 1., 1.],
            [1., 1., 0.],
            [1., 1., 1.],
            [1., 0., 0.]])
    """
    logp = traj.logp.get("policy", traj.logp.get("old"))
    if logp is None:
        raise ValueError('soft_reward: needs traj.logp["old"], the log-probabilities of the policy that acted')
    backward = traj.extras.get("log_backward", torch.zeros_like(logp))
    value = torch.where(traj.mask & traj.exists, backward - logp, 0)
    return {"soft": Channel(value, torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device))}
