"""Rewards that must be good together: the signed geometric mean of Lucy-SKG, the distances it combines, and what a team shares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import merge_reasons
from payoff.sets import statistics
from payoff.trajectories import Channel, Rewards, Trajectories


@method("krc", kind="shaping", paper="arXiv:2305.15801")
def kinesthetic_combination(rewards: Rewards, traj: Trajectories, *, channels: Sequence[str], into: str = "krc") -> Rewards:
    """Add a channel that is large only where all of several are: the signed geometric mean of them (Lucy-SKG, KRC).

    R_t = sign_t (prod_m |R_m,t|)^(1/M); the sign is + where all R_m,t >= 0, and - otherwise: two bad parts do not make a good one.
    One part that is 0 makes the result 0: a logical and, where a weighted sum lets one part pay for another.

    The parts must lie in [-1, 1], and so does the result. One part: that part. Unknown where any part is. A reward, not to be
    differentiated: the slope is infinite at 0. The parts stay, for reports.
    Raises ValueError without channels, for a part outside [-1, 1] and when `into` is taken, KeyError for a channel nobody gives.

    >>> from payoff.examples import four_answers
    >>> sure = torch.ones(4, 1, dtype=torch.bool)
    >>> rewards = {"near": Channel(torch.full((4, 3), 0.25), sure), "aligned": Channel(torch.tensor([[1.0, -1.0, 0.0]] * 4), sure)}
    >>> kinesthetic_combination(rewards, four_answers(), channels=["near", "aligned"])["krc"].value
    tensor([[ 0.5000, -0.5000,  0.0000],
            [ 0.5000, -0.5000,  0.0000],
            [ 0.5000, -0.5000,  0.0000],
            [ 0.5000,  0.0000,  0.0000]])
    """
    if not channels:
        raise ValueError("krc: no channels, so nothing to combine")
    if into in rewards:
        raise ValueError(f"krc: there already is a reward channel {into!r}; choose another name for the combination")
    if lost := [name for name in channels if name not in rewards]:
        raise KeyError(f"krc: no reward channel {lost[0]!r}; there are {sorted(rewards)}")
    parts = [rewards[name] for name in channels]
    valid = torch.stack(torch.broadcast_tensors(*(part.valid for part in parts))).all(0)
    value = torch.stack(torch.broadcast_tensors(*(part.value for part in parts)))
    here = valid & traj.exists if value.shape[2] > 1 or valid.shape[1] > 1 else valid
    value = torch.where(here, value, 0)
    if value.numel() and value.abs().max() > 1 + 1e-6:
        name = channels[int(value.abs().flatten(1).amax(1).argmax())]
        raise ValueError(f"krc: the parts must lie in [-1, 1], and {name!r} reaches {float(value.abs().max()):g}; bound it first")
    size = value.double().abs().prod(0).pow(1 / len(parts)).to(value.dtype)
    result = torch.where((value >= 0).all(0), size, -size)
    return {**rewards, into: Channel(torch.where(here, result, 0), valid, merge_reasons(parts))}


def distance_reward(
    distance: Float[Tensor, "*shape"], *, scale: float, dispersion: float = 1.0, density: float = 1.0, signed: bool = False
) -> Float[Tensor, "*shape"]:
    """How near something is, in (0, 1]: R = exp(-distance / (2 scale dispersion))^(1 / density) (Lucy-SKG).

    scale is a distance that counts as far; a larger dispersion lets the reward reach further, a larger density flattens it.
    signed: s = 2 exp(-distance / (2 scale dispersion)) - 1, then sign(s) |s|^(1 / density), in (-1, 1]: far away is bad.
    Raises ValueError unless scale, dispersion and density are positive.

    >>> distance_reward(torch.tensor([0.0, 2.0]), scale=1.0)
    tensor([1.0000, 0.3679])
    """
    if not (scale > 0 and dispersion > 0 and density > 0):
        raise ValueError(
            f"distance_reward: scale, dispersion and density must be positive, got {scale}, {dispersion} and {density}"
        )
    near = torch.exp(-distance / (2 * scale * dispersion))
    if not signed:
        return near.pow(1 / density)
    signed_near = 2 * near - 1
    return signed_near.sign() * signed_near.abs().pow(1 / density)


@method("team-spirit", kind="shaping", paper="arXiv:2305.15801", sees="batch")
def team_spirit(channel: Channel, traj: Trajectories, *, spirit: float = 0.3) -> Channel:
    """Share rewards within a team and take them from the opponents (Lucy-SKG).

    R'_i = spirit mean_own_team R + (1 - spirit) R_i - mean_opponents R, at every moment.
    One row per agent; extras["episode"] [N] says which play together and extras["team"] [N] on which side; position t is the same
    moment for all agents of an episode. Agents whose row has ended count no more; without opponents nothing is taken.
    With two teams of equal size the sum over an episode's agents is 0 at every moment, for any spirit.

    [N, T]. Unknown at every moment at which the reward of any agent of the episode is. Raises ValueError without these extras, and
    for a spirit outside 0..1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"episode": torch.tensor([0, 0, 1, 1]), "team": torch.tensor([0, 1, 0, 1])})
    >>> team_spirit(Channel(torch.tensor([[1.0], [0.0], [0.5], [0.5]]), torch.ones(4, 1, dtype=torch.bool)), traj).value
    tensor([[ 1.0000,  1.0000,  1.0000],
            [-1.0000, -1.0000,  0.0000],
            [ 0.0000,  0.5000,  0.5000],
            [ 0.0000,  0.0000,  0.0000]])
    """
    if not 0 <= spirit <= 1:
        raise ValueError(f"team_spirit: spirit must lie in 0..1, got {spirit}")
    if lost := [name for name in ("episode", "team") if name not in traj.extras]:
        raise ValueError(f"team_spirit: needs traj.extras[{lost[0]!r}] [N], which says who plays with whom")
    value, known, exists = channel.value.expand(traj.mask.shape), channel.valid.expand(traj.mask.shape), traj.exists
    episode = traj.extras["episode"].unique(return_inverse=True)[1]
    side = torch.stack([episode, traj.extras["team"]], 1).unique(dim=0, return_inverse=True)[1]
    moment = torch.arange(traj.width, device=traj.device)
    own = statistics(value, side[:, None] * traj.width + moment, exists & known)
    all_ = statistics(value, episode[:, None] * traj.width + moment, exists & known)
    there = statistics(value, episode[:, None] * traj.width + moment, exists)
    others = all_.count - own.count
    against = torch.where(others > 0, (all_.mean * all_.count - own.mean * own.count) / others.clamp(min=1), 0)
    shared = spirit * own.mean + (1 - spirit) * torch.where(exists & known, value, 0).double() - against
    valid = (there.count == all_.count) | ~exists
    return Channel(torch.where(exists & valid, shared, 0).to(value.dtype), valid, channel.reasons)
