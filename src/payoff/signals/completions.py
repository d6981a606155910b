"""A reward paid step by step: what each action adds to the reward of what comes out if nothing more is left to chance."""

from __future__ import annotations

from collections.abc import Callable

import torch

from payoff.catalogue import find, method
from payoff.trajectories import Channel, Rewards, Trajectories, outcome, prefix_gains


@method("densegrpo", kind="signal", paper="arXiv:2601.20218", needs=("completed",))
def completion_gains(traj: Trajectories, *, reward: str | Callable[[Trajectories], Rewards]) -> Rewards:
    """Pay every step by how much better its state's deterministic end is than that of the state before (DenseGRPO, eq. 9).

    With R_k the reward of the end that state k comes to without noise: r_k = R_(k+1) - R_k, so that sum_k r_k = R - R_0: summed
    up it is the reward itself but for what the start noise already was; step by step it says which noise did it. A step without
    noise gets 0. Credit it as `immediate` and compare steps of one number: `standardise` with unit "step" over "step".

    reward: a signal that reads the end of a denoising trajectory, by its registered name or itself; its channels keep their names
    Reads extras["completed"] [N, T+1, D], the ends of all states; the reward sees them as the last of "latents", and as "sample" in
    items that have one. It is asked T + 1 times. A gain is known where the rewards of both ends are.
    Raises ValueError without "completed" and "latents", LookupError for an unknown name.

    >>> from payoff.tasks.mixture import _example
    >>> traj = _example()  # ends at a distance of 5 and 0 from the goal
    >>> ends = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]])
    >>> completion_gains(traj.replace(extras={"completed": ends}), reward="mixture-distance")["mixture-distance"].value
    tensor([[ 1., -2.],
            [ 1.,  4.]])
    """
    for name in ("completed", "latents"):
        if name not in traj.extras:
            raise ValueError(f"completion_gains: needs traj.extras[{name!r}], as a denoising policy gives it")
    ask = find(reward, "signal") if isinstance(reward, str) else reward
    states = [_outcomes(ask(_ended(traj, k)), traj) for k in range(traj.width + 1)]
    gains = {}
    for name in states[-1]:
        score = torch.stack([state[name][0] for state in states], 1)
        known = torch.stack([state[name][1] for state in states], 1)
        both = (known[:, 1:] & known[:, :-1]) | ~traj.exists
        gains[name] = Channel(torch.where(both, prefix_gains(score, traj), 0), both, states[-1][name][2])
    return gains


def _outcomes(rewards: Rewards, traj: Trajectories) -> dict[str, tuple[torch.Tensor, torch.Tensor, dict[int, str]]]:
    """(number, whether it is known, reasons) of every channel and trajectory."""
    return {name: (*outcome(channel, traj), dict(channel.reasons)) for name, channel in rewards.items()}


def _ended(traj: Trajectories, k: int) -> Trajectories:
    """The trajectories as if they ended where state k leads."""
    state = torch.minimum(traj.length, torch.full_like(traj.length, k))
    end = traj.extras["completed"].gather(1, state[:, None, None].expand(-1, 1, traj.extras["completed"].shape[2]))
    latents = traj.extras["latents"].scatter(1, traj.length[:, None, None].expand(end.shape), end)
    items = traj.items
    if items and all("sample" in item for item in items):
        items = [{**item, "sample": sample} for item, sample in zip(items, end[:, 0].tolist(), strict=True)]
    return traj.replace(extras={"latents": latents}, items=items)
