"""AEM: an advantage weighed by how sure the policy was of each response, so that entropy falls neither too fast nor too slowly."""

from __future__ import annotations

from typing import Literal

import torch

from payoff.advantages.actions import known_positions
from payoff.advantages.arrays import clean, weighed
from payoff.advantages.stretches import stretches
from payoff.catalogue import method
from payoff.sets import sets, statistics, sums
from payoff.trajectories import Channel, Trajectories


@method("aem", kind="advantage", paper="arXiv:2605.00425", needs=("entropy",), sees="batch")
def entropy_modulated(
    channel: Channel, traj: Trajectories, *, strength: float = 1.0, over: Literal["group", "batch"] = "group"
) -> Channel:
    """Weigh the responses of an advantage by how low their entropy is among the group's (AEM).

    A'_t = alpha_k A_t for the actions t of response k (a step), alpha_k = c_k / mean c, c_k = exp(-strength h_k),
    h_k = (H_k - min H) / (max H - min H), H_k the mean of extras["entropy"] over the response's own actions, and min, max and mean
    over all responses of all rollouts of the group. Put it after any other advantage.

    What is behind it: a natural-gradient step of size eta on action a changes the entropy of a choice by eta A (S - H), where
    S = -log pi(a) and H is the mean of S. Sure responses (low H_k) are made to count more: confident errors raise the entropy
    while errors prevail, and confident successes lower it once they do.

    The mean of alpha over the responses is 1; the advantages' own mean need not stay 0. Equal entropies, and strength 0, give
    alpha = 1 exactly. A response counts if the advantage of any of its own actions is known.
    over: "group" as published, or "batch".

    [N, T]. Raises ValueError for entropies that are not there or not [N, T].

    >>> from payoff.examples import four_answers
    >>> entropy = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 9.0], [0.3, 0.3, 0.3], [0.3, 9.0, 9.0]])
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [0.5], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> entropy_modulated(advantage, four_answers().replace(extras={"entropy": entropy})).value
    tensor([[ 2.0230,  0.7442,  0.7442],
            [-0.7442, -0.7442,  0.0000],
            [ 0.5000,  0.5000,  0.5000],
            [-0.5000,  0.0000,  0.0000]])
    """
    entropy = traj.extras.get("entropy")
    if entropy is None or entropy.shape != traj.mask.shape:
        there = "none" if entropy is None else f"shape {list(entropy.shape)}"
        raise ValueError(f"entropy_modulated: needs extras['entropy'] [N, T] = {list(traj.mask.shape)}, found {there}")
    parts = stretches(traj)
    mine = parts.own
    size, total = parts.size.double(), parts.sums(entropy.detach())
    acted = parts.by_step(size, mine)
    mean = parts.by_step(total, mine) / acted.clamp(min=1)
    said = acted * channel.valid if channel.valid.shape[1] == 1 else parts.by_step(parts.sums(channel.valid), mine)
    counts = said > 0

    key = sets(traj, over).expand(mean.shape)
    found = statistics(mean, key, counts)
    width = found.high - found.low
    height = (mean - found.low) / torch.where(width > 0, width, torch.inf)
    share = clean((-strength * height).exp(), counts)
    alpha = share / torch.where(counts, sums(share, key) / found.count, 1)
    here, value = known_positions(channel, traj), channel.value
    # What the policy did not do is not weighed.
    factor = torch.where(mine, parts.of_step(alpha), 1).to(value.dtype)
    value = weighed(value, lambda rows: parts.spread(factor, rows), here)
    return Channel(value, channel.valid.expand(here.shape), channel.reasons)
