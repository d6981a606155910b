"""Rewards of single actions and steps by how much likelier one model makes them than another, both recorded in `traj.logp`."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.trajectories import Channel, Rewards, Trajectories, log_ratio, per_step, place_steps


@method("rto", kind="signal", paper="arXiv:2404.18922", needs=("ref",))
def preference_tilt(traj: Trajectories, *, model: str = "dpo", scale: float = 0.05, clip: float | None = 0.05) -> Rewards:
    """Pay every own action scale (log pi_model - log pi_ref)(a_t), kept within +-clip (RTO), channel "rto".

    model is the name in traj.logp of a policy that was fitted to preferences (by `dpo`). If it is the optimum of
    E[R] - beta KL(., ref) and scale = beta, payments add up to V(prefix) - V(start) at every action, with
    V = beta log E_ref[exp(R / beta) | prefix]: R handed out early, as a potential does, so that R + "rto" has the optimum of R.
    `clip` comes after `scale` and breaks that; None does not clip. The paper adds the reward model's score of the whole, within
    +-10, and `kl-penalty` times 0.01: channels of their own.

    0 where the policy did not act. Detached. Raises ValueError without those two in traj.logp, and for a scale or clip <= 0.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(logp={"dpo": torch.tensor([[-1.0, -2.5, -1.3]]).repeat(4, 1)})
    >>> preference_tilt(traj, scale=0.1)["rto"].value[:2]
    tensor([[ 0.0500, -0.0500,  0.0200],
            [ 0.0500, -0.0500,  0.0000]])
    """
    if not scale > 0 or (clip is not None and not clip > 0):
        raise ValueError(f"preference_tilt: scale and clip must be > 0, got {scale} and {clip}")
    paid = scale * _ratio("preference_tilt", traj, model, "ref")
    return {"rto": _everywhere(paid if clip is None else paid.clamp(-clip, clip), traj)}


@method("t-reg", kind="signal", paper="arXiv:2412.02685")
def contrast_of_contexts(traj: Trajectories, *, better: str = "better", worse: str = "worse") -> Rewards:
    """Pay every own action sigmoid(log p_better - log p_worse) - 1/2, in (-1/2, 1/2) (T-REG), channel "t-reg".

    traj.logp[better] and [worse] are what one frozen model says of these same actions, asked to write a better and a worse answer.
    Exchanging the two changes the sign; a model that makes no difference pays exactly 0. As the token rewards of a loss on pairs:
    the loss `t-reg`.

    0 where the policy did not act. Detached. Raises ValueError without those names in traj.logp.

    >>> from payoff.examples import four_answers
    >>> said = {"better": torch.full((4, 3), -1.0), "worse": torch.tensor([[-1.0, -2.0, 0.0]]).repeat(4, 1)}
    >>> contrast_of_contexts(four_answers().replace(logp=said))["t-reg"].value[0]
    tensor([ 0.0000,  0.2311, -0.2311])
    """
    ratio = _ratio("contrast_of_contexts", traj, better, worse)
    return {"t-reg": _everywhere(torch.tanh(ratio / 2) / 2, traj)}  # sigmoid(x) - 1/2, odd to the last digit


@method("oprl", kind="signal", paper="arXiv:2509.19199", needs=("old",))
def implicit_step_rewards(traj: Trajectories, *, model: str = "prm", beta: float = 0.05) -> Rewards:
    """Pay every step beta times the sum over its own actions of log pi_model - log pi_old (OPRL, iStar), channel "oprl".

    model is the name in traj.logp of a policy fitted to pairs of rollouts of one group, the better outcome first, by a loss on the
    same differences to the policy that acted ("old"): so the steps of a rollout add up to beta times the whole log-ratio, the
    number that was fitted. The paper's advantage is that of the outcome by `grpo`, plus this channel down [`immediate`,
    `standardise` with unit "step" over "group"]; credited to the end instead it climbs E[beta log-ratio] exactly.

    At the last position of each step; a step without own actions is paid 0. Equal models pay exactly 0. Detached. Raises ValueError
    without those names in traj.logp, and for beta <= 0.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(step=torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]]).int())
    >>> implicit_step_rewards(traj.replace(logp={"prm": torch.full((4, 3), -0.5)}), beta=1.0)["oprl"].value
    tensor([[0.0000, 1.0000, 0.5000],
            [0.0000, 1.0000, 0.0000],
            [0.5000, 0.0000, 1.0000],
            [0.5000, 0.0000, 0.0000]])
    """
    if not beta > 0:
        raise ValueError(f"implicit_step_rewards: beta must be > 0, got {beta}")
    earned, here, _ = per_step(_everywhere(beta * _ratio("implicit_step_rewards", traj, model, "old"), traj), traj)
    return {"oprl": place_steps(earned, here, traj)}


def _ratio(name: str, traj: Trajectories, above: str, below: str) -> torch.Tensor:
    """log above - log below of the own actions, 0 elsewhere."""
    if lost := [key for key in (above, below) if key not in traj.logp]:
        raise ValueError(f"{name}: needs traj.logp[{lost[0]!r}]; there are {sorted(traj.logp)}")
    return log_ratio(traj.logp[above], traj.logp[below], traj).detach()


def _everywhere(value: torch.Tensor, traj: Trajectories) -> Channel:
    return Channel(value, torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device))
