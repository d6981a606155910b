"""CANON: a group is split in two by a trait of its rollouts, and each rollout is compared with the other half, its own, or both."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.advantages.actions import row_counts, row_means
from payoff.catalogue import method
from payoff.sets import rank, sets, statistics, sums
from payoff.trajectories import Channel, Trajectories, at_start

Between = float | Literal["accuracy", "inaccuracy"]


@method("canon", kind="advantage", paper="arXiv:2509.23962", needs=("entropy",), sees="batch")
def entropy_halves(channel: Channel, traj: Trajectories, *, between: Between = 1.0, asymmetry: float = 1.0) -> Channel:
    """Compare a rollout with the half of its group whose entropy is on the other side of the middle (CANON, by entropy).

    A = mu (C - mean_other half C) + (1 - mu) (C - mean_own half C), with C the rollout's credit at its first action. The halves are
    those of the mean of extras["entropy"] over the rollout's own actions: the floor(n / 2) least are one, the others the other. So
    the half that did better is pushed as a whole, whichever it is: no direction is wired in, as a bonus on entropy would.

    between:   mu; 1/2 is the mean baseline in groups of even size. Or "accuracy": the mean credit of the batch, which goes from
               within the halves to between them as training succeeds; or "inaccuracy": one minus that. Both need credits in 0..1
    asymmetry: alpha, which leans towards high entropy when less than 1: the upper half is compared as C - alpha mean_lower, the
               lower one as alpha C - mean_upper. Only with 1 do equal credits get 0 (exactly)

    A rollout whose half, or other half, is not there (a group of one) gets 0. Among equal traits the one of the lesser id counts as
    more. The paper divides by a constant length: the aggregation `constant-length`. Which half a rollout is in depends on itself,
    so that the gradient turns for all mu but 1/2 (docs/exact-lab.md has the numbers).
    Raises ValueError for numbers outside 0..1, and for credits outside 0..1 where `between` is taken from them.

    >>> entropy = torch.tensor([[0.1, 0.1, 0.1], [0.9, 0.9, 0.0], [0.5, 0.5, 0.5], [0.2, 0.0, 0.0]])
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.7], [0.7]]), torch.ones(4, 1, dtype=torch.bool))
    >>> entropy_halves(credit, four_answers().replace(extras={"entropy": entropy})).value.T
    tensor([[ 1., -1.,  0.,  0.]])
    """
    entropy = traj.extras.get("entropy")
    if entropy is None or entropy.shape != traj.mask.shape:
        found = "none" if entropy is None else f"shape {list(entropy.shape)}"
        raise ValueError(f"entropy_halves: needs extras['entropy'] [N, T] = {list(traj.mask.shape)}, found {found}")
    mean = row_means(entropy.detach(), traj.own, traj)
    return _compared("entropy_halves", channel, traj, mean, between, asymmetry, favoured_is_upper=True)


@method("canon-length", kind="advantage", paper="arXiv:2509.23962", sees="batch")
def length_halves(channel: Channel, traj: Trajectories, *, between: Between = 1.0, asymmetry: float = 1.0) -> Channel:
    """Compare a rollout with the half of its group whose length is on the other side of the middle (CANON, by length).

    As `entropy_halves`, the halves being those of the number of the rollout's own actions. asymmetry leans towards the *short* half
    when less than 1: a short rollout is compared as C - alpha mean_long, a long one as alpha C - mean_short.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [1.0], [1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> length_halves(credit, four_answers()).value.T
    tensor([[ 1., -1.,  0.,  0.]])
    >>> length_halves(credit, four_answers(), asymmetry=0.5).value.T  # rollouts 1 and 3 are the short ones
    tensor([[ 0.5000, -0.5000, -0.5000,  0.5000]])
    """
    length = row_counts(traj.own).double()
    return _compared("length_halves", channel, traj, length, between, asymmetry, favoured_is_upper=False)


def _compared(
    where: str,
    channel: Channel,
    traj: Trajectories,
    trait: Float[Tensor, " N"],
    between: Between,
    asymmetry: float,
    *,
    favoured_is_upper: bool,
) -> Channel:
    if not 0 <= asymmetry <= 1:
        raise ValueError(f"{where}: asymmetry must lie in 0..1, got {asymmetry}")
    credit, known = at_start(channel, traj)
    group = sets(traj, "group")[:, 0]
    count = sums(known.double(), group)
    upper = known & (rank(trait, group, known, traj.id) < torch.ceil(count / 2))
    low, high = (statistics(credit, group, known & half) for half in (~upper, upper))
    own, other = torch.where(upper, high.mean, low.mean), torch.where(upper, low.mean, high.mean)
    compared = known & (low.count > 0) & (high.count > 0)

    mu = _share(where, between, credit, known, traj)
    favoured = upper == favoured_is_upper
    # Written as differences, so that equal credits cancel exactly.
    less = torch.full_like(mu, asymmetry)
    gain = 1 - mu * torch.where(favoured, 0, 1 - less)
    middle = own + mu * (torch.where(favoured, less, 1) * other - own)
    dtype, one_column = channel.value.dtype, channel.value.shape[1] == channel.valid.shape[1] == 1
    here = channel.valid if one_column else channel.valid & traj.exists
    value = torch.where(here, channel.value, 0)
    if one_column:
        result = gain[:, None] * value.double() - middle[:, None]
    else:
        result = gain[:, None].to(dtype) * value - middle[:, None].to(dtype)
    return Channel(torch.where(here & compared[:, None], result, 0).to(dtype), channel.valid, channel.reasons)


def _share(
    where: str, between: Between, credit: Float[Tensor, " N"], known: Bool[Tensor, " N"], traj: Trajectories
) -> Float[Tensor, " N"]:
    """mu of the batch each row is in."""
    if isinstance(between, str):
        if between not in ("accuracy", "inaccuracy"):
            raise ValueError(f'{where}: between must be a number, "accuracy" or "inaccuracy", got {between!r}')
        if (known & ((credit < 0) | (credit > 1))).any():
            raise ValueError(f'{where}: between="{between}" needs credits in 0..1')
        accuracy = statistics(credit, sets(traj, "batch")[:, 0], known).mean
        return accuracy if between == "accuracy" else 1 - accuracy
    if not 0 <= between <= 1:
        raise ValueError(f"{where}: between must lie in 0..1, got {between}")
    return torch.full_like(credit, between, dtype=torch.float64)
