"""Scores of steps as one quality of the solution so far, that starts at 0 and is 1 when the work is done and nothing was wrong."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories, per_step, place_steps


@method("rest-mcts", kind="credit", paper="arXiv:2406.03816", pays=True)
def quality_gains(channel: Channel, traj: Trajectories, *, scores: Literal["right", "error"] = "right") -> Channel:
    """Pay every step what it adds to the quality of the solution, a right step as much as one of those still needed (ReST-MCTS*).

    v_0 = 0, w_k = (1 - v_(k-1)) (1 - 2 r_k) / (m_k + 1), v_k = max(v_(k-1) + w_k, 0), with r_k in [0, 1] how wrong step k is and
    m_k = K - k the steps that follow it. Paid is v_k - v_(k-1), at the end of step k; all of it adds up to v_K, in [0, 1].

    scores: "right": the channel says how right a step is, r = 1 - p, as process reward models do; "error": how wrong

    All right: every step is paid 1 / K, so nothing is gained by writing more of them. The last step, when right, brings quality to
    1 whatever came before, and a step scored 1/2 changes nothing. A step's score is all that is paid in it.
    It remains a reward. A trajectory with an unknown step is unknown from it on.
    Raises ValueError for a known score outside [0, 1], and for other words.

    >>> from payoff.examples import four_answers
    >>> right = Channel(torch.tensor([[1.0, 0.0, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> quality_gains(right, four_answers()).value
    tensor([[ 0.3333, -0.3333,  1.0000],
            [ 0.5000, -0.5000,  0.0000],
            [ 0.3333, -0.3333,  1.0000],
            [ 1.0000,  0.0000,  0.0000]])
    """
    if scores not in ("right", "error"):
        raise ValueError(f'quality_gains: scores must be "right" or "error", got {scores!r}')
    score, here, known = per_step(channel, traj)
    odd = known & ((score < -1e-6) | (score > 1 + 1e-6))
    if odd.any():
        raise ValueError(f"quality_gains: scores must lie in 0..1, got {float(score[odd][0])}")
    error = 1 - score if scores == "right" else score
    value = quality(torch.where(known, error, 0.5), here)
    known = (known | ~here).long().cumprod(1).bool() & here  # what follows an unknown step hangs on it
    gain = value - torch.cat([torch.zeros_like(value[:, :1]), value[:, :-1]], 1)
    return place_steps(torch.where(known, gain, 0), known, traj, channel.reasons)


def quality(error: Float[Tensor, "N S"], here: Bool[Tensor, "N S"]) -> Float[Tensor, "N S"]:
    """v_k of every step that is `here` (its first entries of each row), from how wrong each is; 0 elsewhere.

    >>> quality(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), torch.ones(1, 4, dtype=torch.bool)).tolist()
    [[0.25, 0.0, 0.5, 1.0]]
    """
    before = torch.zeros_like(error[:, 0])
    count, values = here.sum(1), []
    for k in range(error.shape[1]):
        left = (count - k - 1).clamp(min=0)
        before = torch.where(here[:, k], (before + (1 - before) * (1 - 2 * error[:, k]) / (left + 1)).clamp(min=0), 0)
        values.append(before)
    return torch.stack(values, 1)
