"""The actions of an answer that a scorer finds most telling: OREAL's other token weights, by rank instead of a threshold."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.advantages.actions import known_positions, row_counts
from payoff.advantages.arrays import apart, both, clean, plain, weighed
from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories

_SHORT = 1024  # positions


@method("oreal-top", kind="advantage", paper="arXiv:2502.06781")
def top_tokens(
    channel: Channel,
    traj: Trajectories,
    *,
    scores: str = "token_scores",
    share: float = 0.25,
    side: Literal["both", "positive", "negative"] = "both",
) -> Channel:
    """Weigh only the share of an answer's actions where it looks most right, or most wrong (OREAL's top-k weights).

    A_t = A omega_t. With c_t = sigmoid(mean_{own actions i <= t} w_i), w = traj.extras[scores] [N, T], let p_t = c_t where A > 0
    and 1 - c_t where A < 0. Of the k = max(1, floor(share n)) largest p_t of the n own actions, omega_t = (p_t - least) / (greatest
    - least), the least and greatest of these k, and 1 for all k where they are equal; elsewhere 0. Of equal ones the first count.

    `oreal` with its threshold asks how right an answer looks; this one only where it looks more right than elsewhere, however
    little it does: a scorer that knows nothing gives the first k actions the full weight, so let it learn before the policy does.
    The last of the k has weight 0 unless all are equal. k is counted among own actions, before any of them is unknown.

    side: as of `oreal`. An advantage of 0 stays 0; weights carry no gradient.
    [N, T]; unknown stays unknown. Raises ValueError for scores that are not there or not [N, T], a share outside (0, 1], an unknown
    side.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"token_scores": torch.tensor([[0.0, 4.0, -4.0]]).repeat(4, 1)})
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [0.0], [1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> top_tokens(advantage, traj, share=0.7).value  # k = 2, 1, 2, 1
    tensor([[ 0.,  1.,  0.],
            [-1.,  0.,  0.],
            [ 0.,  0.,  0.],
            [ 1.,  0.,  0.]])
    """
    if not 0 < share <= 1:
        raise ValueError(f"top_tokens: share must lie in (0, 1], got {share}")
    if side not in ("both", "positive", "negative"):
        raise ValueError(f'top_tokens: side must be "both", "positive" or "negative", got {side!r}')
    w = traj.extras.get(scores)
    if w is None or w.shape != traj.mask.shape:
        found = "none" if w is None else f"shape {list(w.shape)}"
        raise ValueError(f"top_tokens: needs extras[{scores!r}] [N, T] = {list(traj.mask.shape)}, found {found}")
    own, count = traj.own, row_counts(traj.own)[:, None]
    known = known_positions(channel, traj)
    counts = known if apart(known, own) is None else both(known, own)
    # Running sums of long rows would lose too much in single precision.
    dtype = torch.promote_types(channel.value.dtype, torch.float32 if traj.width <= _SHORT else torch.float64)
    k = (share * count.double() + 1e-9).floor().long().clamp(min=1)
    sign = torch.where(channel.valid, channel.value, 0).detach().sign()

    def among_top(rows: slice) -> Float[Tensor, "n T"]:
        so_far = clean(w[rows].detach().to(dtype), own[rows]).cumsum_(1).div_(own[rows].cumsum(1).clamp_(min=1))
        return _weights(so_far.mul_(sign[rows]).sigmoid_(), own[rows], count[rows], k[rows]).to(channel.value.dtype)

    value = weighed(channel.value, among_top, counts)
    if side == "both":
        return Channel(value, channel.valid, channel.reasons)
    advantage = channel.value.expand(traj.mask.shape)
    kept = known & (advantage > 0 if side == "positive" else advantage < 0)
    return Channel(torch.where(kept, value, 0), channel.valid & kept, channel.reasons)


def _weights(
    p: Float[Tensor, "n T"], own: Bool[Tensor, "n T"], count: Int[Tensor, "n 1"], k: Int[Tensor, "n 1"]
) -> Float[Tensor, "n T"]:
    """Of the k largest p of every row's own actions, how far they lie between the least and the greatest of them; elsewhere 0."""
    p = torch.where(own, p, -1)
    # Sorting numbers alone, and NumPy's sort on a CPU, take a tenth of the time that torch takes to sort with their places.
    ordered = torch.from_numpy(np.sort(p.numpy(), axis=1)) if plain(p) else p.sort(dim=1).values
    greatest, least = ordered[:, -1:], ordered.gather(1, p.shape[1] - torch.minimum(k, count.clamp(min=1)))
    spread = greatest - least
    weight = p.sub(least).div_(torch.where(spread > 0, spread, 1)).clamp_(min=0)  # what ties with the least has 0 as it has
    if bool((flat := (spread == 0)[:, 0]).any()):
        same = own[flat] & (p[flat] == greatest[flat])
        weight[flat] = (same & (same.cumsum(1) <= k[flat])).to(p.dtype)
    return weight
