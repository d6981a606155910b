"""Weights of single actions within an advantage: OREAL's token importance, read from a scorer's running mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.advantages.actions import known_positions
from payoff.advantages.arrays import apart, both, clean, same, weighed
from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories

_SHORT = 1024  # positions


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
    looks = looks_right("token_importance", channel, traj, scores)
    advantage, known = channel.value.expand(traj.mask.shape), known_positions(channel, traj)
    counts = known if same(traj.own, traj.exists) else both(known, traj.own)

    def share(rows: slice) -> Float[Tensor, "n T"]:
        return looks(rows).sub_(threshold).clamp_(min=0).to(advantage.dtype)

    value = weighed(channel.value / (1 - threshold), share, counts)
    if side == "both":
        return Channel(value, channel.valid, channel.reasons)
    kept = known & (advantage > 0 if side == "positive" else advantage < 0)
    return Channel(torch.where(kept, value, 0), channel.valid & kept, channel.reasons)


def looks_right(where: str, channel: Channel, traj: Trajectories, scores: str) -> Callable[[slice], Float[Tensor, "n T"]]:
    """c_t of these rows where their advantage is positive, 1 - c_t where it is negative, 1/2 where it is 0; elsewhere anything.

    In at least single precision, without gradient. Raises ValueError, as `where`, without scores [N, T].
    """
    w = traj.extras.get(scores)
    if w is None or w.shape != traj.mask.shape:
        found = "none" if w is None else f"shape {list(w.shape)}"
        raise ValueError(f"{where}: needs extras[{scores!r}] [N, T] = {list(traj.mask.shape)}, found {found}")
    # Running sums of long rows would lose too much in single precision.
    dtype = torch.promote_types(channel.value.dtype, torch.float32 if traj.width <= _SHORT else torch.float64)
    first = same(traj.own, traj.exists) or _from_the_first(traj)
    position = torch.arange(1, traj.width + 1, dtype=dtype, device=traj.device)
    sign = torch.where(channel.valid, channel.value.detach(), 0).sign().to(dtype)

    def looks(rows: slice) -> Float[Tensor, "n T"]:
        own = traj.own[rows]
        # Beyond the first actions there are none, and what lies there is in no sum that counts.
        so_far = (w[rows] if first else clean(w[rows], own)).detach().cumsum(1, dtype=dtype)
        so_far.div_(position if first else own.cumsum(1).clamp_(min=1))
        return so_far.mul_(sign[rows]).sigmoid_()  # 1 - sigmoid(x) is sigmoid(-x)

    return looks


def _from_the_first(traj: Trajectories) -> bool:
    """Whether the actions of every row are its first positions."""
    return bool(traj.own[:, 0].all()) and apart(traj.own[:, 1:], traj.own[:, :-1]) is None
