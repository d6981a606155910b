"""BNPO: the mean of the group as baseline, and as scale the density of a Beta distribution fitted to the batch's pass rates."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.advantages.actions import greatest
from payoff.catalogue import method
from payoff.sets import sets, statistics
from payoff.trajectories import Channel, Trajectories, at_start

_MOST = 1e6  # a pass rate far out in the tails has a density of 0
_SAME = 1e-12  # variance of pass rates below which they differ by rounding, and the fit by anything


@method("bnpo", kind="advantage", paper="arXiv:2506.02864", sees="batch")
def beta_normalised(
    channel: Channel,
    traj: Trajectories,
    *,
    low: float = 0.0,
    high: float = 1.0,
    alpha: float | None = None,
    beta: float | None = None,
) -> Channel:
    """Compare a rollout with the mean of its group, over the density that the batch's pass rates have there (BNPO).

    A = (C - p) / f(p), C = (credit - low) / (high - low), p = mean_group C, f = Beta(p; alpha, beta). A rollout counts by its
    credit at its first action; weights 1 / f are at most a million.

    alpha = max(1, 1 + a / 3), beta = max(1, 1 + b / 3), with Beta(a, b) fitted by moments to the pass rates of the batch's groups:
    a + b = m (1 - m) / v - 1, a / (a + b) = m, v with divisor n - 1. If pass rates are Beta(a, b), these are the exponents that
    minimise E[p (1 - p) / f(p)^2], the mean variance of an advantage, over all Beta densities f. Given both, they are taken as they
    are: (1, 1) is the mean baseline, (3/2, 3/2) is pi / 8 times GRPO.

    low, high: the least and greatest reward there can be. For several rewards (the paper's decomposition): a path for each with
    its own bounds, and a mix with weights 1 / their number.

    Equal rewards get exactly 0 (so do groups of one, which take no part in the fit). Where the fit is undefined (one group, or
    groups that all have the same pass rate, to a millionth) f = 1. Raises ValueError for a reward outside low..high, for
    low >= high, and for an alpha without a beta or below 1.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [1.0], [1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> beta_normalised(credit, four_answers()).value.T
    tensor([[ 0.4774, -0.4774,  0.0000,  0.0000]])
    """
    if not low < high:
        raise ValueError(f"beta_normalised: low must be < high, got {low} and {high}")
    if (alpha is None) != (beta is None) or min(alpha or 1, beta or 1) < 1:
        raise ValueError(f"beta_normalised: alpha and beta come together and are at least 1, got {alpha} and {beta}")
    credit, known = at_start(channel, traj)
    outside = known & ((credit < low) | (credit > high))
    if outside.any():
        row = int(outside.nonzero()[0, 0])
        raise ValueError(
            f"beta_normalised: credit must lie in low..high = {low}..{high}, "
            f"trajectory {int(traj.id[row])} has {float(credit[row])}"
        )
    share = (credit.double() - low) / (high - low)
    group = statistics(share, sets(traj, "group")[:, 0], known, ddof=0)
    compared = known & (group.count > 1)
    if alpha is None or beta is None:
        a, b = _fitted(group.mean, compared, traj)
    else:
        a, b = (torch.full_like(group.mean, x) for x in (alpha, beta))
    weight = 1 / _density(group.mean, a, b).clamp(min=1 / _MOST)
    # the baseline in the credit's own dtype, so that equal credits cancel exactly
    middle = (group.mean * (high - low) + low).to(channel.value.dtype)
    middle = torch.where(group.equal, credit, middle)
    scale = torch.where(compared, weight / (high - low), 0)[:, None].to(channel.value.dtype)
    here = channel.valid if channel.value.shape[1] == channel.valid.shape[1] == 1 else channel.valid & traj.exists
    return Channel(torch.where(here, (channel.value - middle[:, None]) * scale, 0), channel.valid, channel.reasons)


def _fitted(
    rate: Float[Tensor, " N"], compared: Bool[Tensor, " N"], traj: Trajectories
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """alpha and beta of the batch each row is in; every group counts once, by its first member."""
    row = torch.arange(len(rate), dtype=rate.dtype, device=rate.device)
    one = compared & (greatest(row, sets(traj, "group")[:, 0], compared) == row)
    batch = statistics(rate, sets(traj, "batch")[:, 0], one, ddof=1)
    m, v = batch.mean, batch.std.square()
    some = v > _SAME
    both = m * (1 - m) / torch.where(some, v, 1) - 1
    a, b = ((1 + both * x / 3).clamp(min=1) for x in (m, 1 - m))
    return torch.where(some, a, 1), torch.where(some, b, 1)


def _density(p: Float[Tensor, " N"], a: Float[Tensor, " N"], b: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Beta(p; a, b), also at the ends."""
    if bool((a == a[:1]).all() & (b == b[:1]).all()):  # one batch
        a, b = a[:1], b[:1]
    constant = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
    return (constant + torch.xlogy(a - 1, p) + torch.xlogy(b - 1, 1 - p)).exp()
