"""Choosing which of several one-step candidates a rollout goes on from."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from payoff.catalogue import method
from payoff.sets import sets
from payoff.trajectories import Rewards, Trajectories, outcome


@method("slate", kind="selection", paper="arXiv:2602.23440", sees="group")
def extend_by_reward(
    rewards: Rewards,
    traj: Trajectories,
    *,
    channel: str = "step",
    temperature: float = 1.0,
    over: str = "siblings",
    seed: int = 0,
) -> Int[Tensor, " M"]:
    """One row of every set of candidates, drawn with probability proportional to exp(reward / temperature) (SLATE).

    Candidates are continuations of one prefix by one step (`resume` with a horizon); the row that is drawn is where the next
    candidates go on. All of them are trained on, by `standardise` over "siblings": judging a step at once leaves out the noise of
    all later steps, up to a factor T in variance where the steps' rewards are independent and their sum is what is wanted. Where
    a step's worth shows later, the step reward must be its Q value, or the direction is that of a myopic objective.

    Drawing by reward moves the prefixes that are visited away from the policy's own; temperature infinity draws evenly and does
    not. The draw depends on `seed` and the ids of the rows, not on their order. A set without any verdict gives no row.

    Raises KeyError for a channel nobody gives, ValueError unless temperature > 0.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> step = place_outcome(torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.ones(4, dtype=torch.bool), four_answers())
    >>> extend_by_reward({"step": step}, four_answers(), over="group", temperature=1e-3).tolist()
    [1, 2]
    """
    if not temperature > 0:
        raise ValueError(f"extend_by_reward: temperature must be > 0, got {temperature}")
    if channel not in rewards:
        raise KeyError(f"extend_by_reward: no reward channel {channel!r}; there are {sorted(rewards)}")
    reward, known = outcome(rewards[channel], traj)
    key = sets(traj, over)[:, 0].unique(return_inverse=True)[1]  # type: ignore[arg-type]  # sets refuses what it does not know
    chance = torch.empty(len(traj), dtype=torch.float64)
    order = traj.id.cpu().argsort()
    chance[order] = torch.rand(len(traj), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # the greatest of reward / temperature + Gumbel noise is a draw from the softmax
    noisy = reward.double() / temperature - (-chance.clamp(min=1e-300).log()).log().to(traj.device)
    noisy = torch.where(known, noisy, -torch.inf)
    size = int(key.max()) + 1 if len(key) else 0
    best = noisy.new_full((size,), -torch.inf).scatter_reduce(0, key, noisy, "amax")
    return (known & (noisy == best[key])).nonzero()[:, 0]
