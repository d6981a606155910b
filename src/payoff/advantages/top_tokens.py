"""The actions of an answer that a scorer finds most telling: OREAL's other token weights, by rank instead of a threshold."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.advantages.actions import known_positions, row_counts
from payoff.advantages.arrays import ascending_, both, keep_, ranks, same, weighed
from payoff.advantages.token_importance import looks_right
from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories

_NARROWEST = 1e-5  # below which running means of equal scores may differ by rounding


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
    - least), the least and greatest of these k, and 1 for all k where these differ by less than 1e-5; elsewhere 0. Of equal ones
    the first count.

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
    looks = looks_right("top_tokens", channel, traj, scores)
    known = known_positions(channel, traj)
    counts = known if same(traj.own, traj.exists) else both(known, traj.own)
    k = (share * row_counts(traj.own).double() + 1e-9).floor().long().clamp(min=1)[:, None]
    place = (traj.width - k).clamp(min=0)
    edges = torch.cat([(place - 1).clamp(min=0), place], 1)

    def weight(rows: slice) -> Float[Tensor, "n T"]:
        own, wanted = traj.own[rows], k[rows]
        p = keep_(looks(rows), own)  # 0 comes last: at own actions p is more
        ordered = ascending_(ranks(p.clone())).view(p.dtype)
        (below, least), greatest = ordered.gather(1, edges[rows]).split(1, 1), ordered[:, -1:]
        alike = greatest - least < _NARROWEST
        # What is not among the largest is below the least of them, and so is what has the weight 0 among them; where they are
        # alike none of them has, and what is below the least is at most the number before it.
        zero = torch.where(alike, least.nextafter(least.new_tensor(-1)), least)
        found = p.sub_(zero).div_(torch.where(alike, least, greatest) - zero).clamp_(0, 1)
        crowded = (alike & (below == least) & (wanted < traj.width)).squeeze(1).nonzero().squeeze(1)
        if len(crowded):
            level = own[crowded] & (found[crowded] == 1)
            found[crowded] = (level & (level.cumsum(1) <= wanted[crowded])).to(p.dtype)
        return found.to(channel.value.dtype)

    value = weighed(channel.value, weight, counts)
    if side == "both":
        return Channel(value, channel.valid, channel.reasons)
    kept = counts & (channel.value > 0 if side == "positive" else channel.value < 0)
    return Channel(torch.where(kept, value, 0), channel.valid & kept, channel.reasons)
