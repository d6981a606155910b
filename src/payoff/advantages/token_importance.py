"""Weights of single actions within an advantage: OREAL's token importance, read from a scorer's running mean."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.advantages.actions import known_positions, row_blocks
from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories


@method("oreal", kind="advantage", paper="arXiv:2502.06781")
def token_importance(
    channel: Channel,
    traj: Trajectories,
    *,
    scores: str = "token_scores",
    threshold: float = 0.5,
    side: Literal["both", "positive", "negative"] = "both",
) -> Channel:
    """Weigh each action of an advantage by what a scorer makes of the answer up to there (OREAL, sec. 3.3).

    A_t = A omega_t, c_t = sigmoid(mean_{own actions i <= t} w_i) with w = traj.extras[scores] [N, T]: how right the answer looks
    so far. omega_t = max((c_t - threshold) / (1 - threshold), 0) where A > 0, and the same of 1 - c_t where A < 0: right answers
    are cloned where they look right, wrong ones pushed away from where they look wrong.
    The scorer is fitted so that sigmoid(mean of w over the whole answer) predicts the outcome; its gradient is not asked for here.

    side: with "positive" or "negative" the other advantages become unknown, so that each sign can be a term of its own with its own
          token count: the paper's loss is `policy_gradient` on the positive and, times 0.5, the unclipped ratio on the negative.
    c = 1/2, as of a scorer that knows nothing, gives 0 throughout. An advantage of 0 stays 0.

    [N, T]; unknown stays unknown. Raises ValueError for scores that are not there or not [N, T], a threshold outside [0, 1), an
    unknown side.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"token_scores": torch.tensor([[0.0, 4.0, -4.0]]).repeat(4, 1)})
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [0.0], [1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> token_importance(advantage, traj).value
    tensor([[0.0000, 0.7616, 0.0000],
            [0.0000, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"token_importance: threshold must lie in 0 <= threshold < 1, got {threshold}")
    if side not in ("both", "positive", "negative"):
        raise ValueError(f'token_importance: side must be "both", "positive" or "negative", got {side!r}')
    w = traj.extras.get(scores)
    if w is None or w.shape != traj.mask.shape:
        found = "none" if w is None else f"shape {list(w.shape)}"
        raise ValueError(f"token_importance: needs extras[{scores!r}] [N, T] = {list(traj.mask.shape)}, found {found}")
    advantage = torch.where(known_positions(channel, traj), channel.value, 0)
    # 1 - sigmoid(x) is sigmoid(-x), so that the side which counts is read off directly
    pieces = [_weighed(w[rows].detach(), traj.own[rows], advantage[rows], threshold) for rows in row_blocks(traj)]
    value = torch.cat(pieces)
    if side == "both":
        return Channel(value, channel.valid, channel.reasons)
    kept = advantage > 0 if side == "positive" else advantage < 0
    return Channel(torch.where(kept, value, 0), channel.valid & kept, channel.reasons)


def _weighed(
    scores: Float[Tensor, "n T"], own: Bool[Tensor, "n T"], advantage: Float[Tensor, "n T"], threshold: float
) -> Float[Tensor, "n T"]:
    """omega times the advantage of some rows; 0 where the policy did not act."""
    seen = own.cumsum(1, dtype=torch.float32).clamp_(min=1)
    so_far = torch.where(own, scores, 0).cumsum(1, dtype=torch.float64).div_(seen).to(advantage.dtype)
    agrees = so_far.mul_(advantage.sign()).sigmoid_()
    share = agrees.sub_(threshold).mul_(1 / (1 - threshold)).clamp_(min=0)
    return torch.where(own & (share > 0), share * advantage, 0)
