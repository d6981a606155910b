"""Learning from one's own best: which rows of a large batch of rollouts are imitated."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from payoff.catalogue import method
from payoff.sets import rank, sets
from payoff.trajectories import Rewards, Trajectories, outcome


@method("superhf", kind="selection", paper="arXiv:2310.16763", sees="group")
def best_of_superbatch(
    rewards: Rewards, traj: Trajectories, *, by: str = "score", k: int = 1, length_penalty: float = 0.0
) -> Int[Tensor, " M"]:
    """The k rows of each group with the highest outcome in the channel `by`, less a price of length (SuperHF).

    score = outcome - length_penalty log(characters of the response), with at least one character; actions are counted where an
    item has no response. Follow it with a likelihood loss (a term without paths and the loss `policy-gradient`) and with
    `forward-kl`, the prior that keeps the policy near where it began: without it, one string per start is the end of it.

    The rows that are left follow the best-of-B distribution, B rollouts of a start: in expectation the likelihood's gradient is
    that of sum_y best_of_B(y) log pi(y). With k = B it is imitation of oneself, whose expected gradient is 0.
    Ties go to the smaller id. Rows without a verdict are never taken. Raises ValueError for k < 1, KeyError for a channel nobody
    gives.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers()
    >>> score = place_outcome(torch.tensor([1.0, 2.0, 0.0, 1.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> best_of_superbatch({"score": score}, traj)
    tensor([1, 3])
    """
    if k < 1:
        raise ValueError(f"best_of_superbatch: k must be at least 1, got {k}")
    if by not in rewards:
        raise KeyError(f"best_of_superbatch: no reward channel {by!r}; there are {sorted(rewards)}")
    score, known = outcome(rewards[by], traj)
    if length_penalty:
        said = [len(item["response"]) if "response" in item else int(n) for item, n in zip(_items(traj), traj.length, strict=True)]
        characters = torch.tensor(said, dtype=torch.float64, device=traj.device).clamp(min=1)
        score = score.double() - length_penalty * characters.log()
    return (known & (rank(score, sets(traj, "group")[:, 0], known, traj.id) < k)).nonzero().squeeze(1)


def _items(traj: Trajectories) -> list:
    return list(traj.items) or [{}] * len(traj)
