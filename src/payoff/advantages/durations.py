"""Actions weighed by how long they took, for batches in which quick actions come too often (duration-aware policy gradients)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.advantages.actions import known_actions, known_positions, row_counts
from payoff.advantages.arrays import apart, clean, cleaned, positive, weighed
from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories


@method("duration-aware-pg", kind="advantage", paper="arXiv:2509.01684", sees="batch")
def duration_weighted(channel: Channel, traj: Trajectories, *, of: str = "durations") -> Channel:
    """Multiply every action's weight by how long it took, over the mean of the batch: A_t d_t / mean(d).

    Workers that start anew as soon as they are done, and lose what is unfinished when a window of W ends, complete an action x
    about pi(x) W / d_x times: quick actions come too often, and d_x makes the sum over what came in W E_pi[A grad log pi] again.
    So it is for such batches alone, as the last of the transforms. Where every action that was begun is waited for, counts follow
    pi, and the weight is itself a bias towards what is slow.

    of: the name of the durations in traj.extras, [N, T]; those of a step belong on all its actions (`spread_steps`)
    The mean is that of the policy's own actions whose weight is known. With equal durations it is the identity; a unit of time
    changes nothing.
    Gamed as little as time is: durations are the collector's, never the policy's; a time limit cuts them, and so the weight.

    Raises ValueError without durations, and for one that is not positive and finite.

    >>> from payoff.examples import four_answers
    >>> waited = four_answers().replace(extras={"durations": torch.tensor([[1.0, 1.0, 4.0]]).repeat(4, 1)})
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> duration_weighted(advantage, waited).value[:2]  # the mean of nine actions is 5 / 3
    tensor([[ 0.6000,  0.6000,  2.4000],
            [-0.6000, -0.6000,  0.0000]])
    """
    if of not in traj.extras:
        raise ValueError(f"duration_weighted: needs traj.extras[{of!r}] [N, T], how long every action took")
    counts, dtype = known_actions(channel, traj), channel.value.dtype
    taken, number = traj.extras[of].detach(), int(row_counts(counts).sum())
    total, above = 0.0, 0
    for _, part in cleaned(taken, counts, torch.float64):
        total += float(part.sum())
        above += int(row_counts(positive(part)).sum())
    if above < number or not total < math.inf:  # NaN is no such number either
        raise ValueError(f"duration_weighted: the durations of the actions in {of!r} must be positive and finite")
    mean, here = total / number if number else 1.0, known_positions(channel, traj)
    rest = apart(here, counts)

    def weight(rows: slice) -> Float[Tensor, "n T"]:
        if rest is None:
            return torch.div(taken[rows], mean).to(dtype)
        return clean(taken[rows], counts[rows]).div_(mean).to(dtype).add_(rest[rows])

    return channel._replace(value=weighed(channel.value, weight, here))
