"""One answer of many: the one that a reward holds for the best. Choosing by what most answers say is in `voting`.

What n answers are worth on average, from the samples there are, is estimated in `payoff.audit.tries`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.sets import rank, sets
from payoff.trajectories import Channel, Trajectories, outcome


class Chosen(NamedTuple):
    """One row of every group, in the order in which the groups first appear.

    row:   the row that answers for its group; `traj.select(chosen.row)` has one answer to every start
    score: what it was chosen by: its reward, or its answer's share of the votes; float64, 0 where nothing is known
    known: False where the group has no verdict (or vote) at all; the row is then the one of least id, as good as any other
    """

    row: Int[Tensor, " G"]
    score: Float[Tensor, " G"]
    known: Bool[Tensor, " G"]


@method("best-of-n", kind="search", sees="group")
def best_of_n(channel: Channel, traj: Trajectories) -> Chosen:
    """The row of each group with the highest outcome in a channel: best-of-n, whose n is the size of the group.

    The channel may be any reward: a checker, a reward model (reward-ranker), the policy's own `self-certainty`. A verdict that is
    unknown never wins, not even against the lowest there is. Equal outcomes: the row of least id, which was sampled first.

    With a perfect reward of 0 and 1 and rollouts that are right with probability p, the choice is right with 1 - (1 - p)^n; with a
    constant one, with p. Whoever takes the best of n goes at most log n - (n - 1) / n nats away from the policy (less with ties).

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj, known = four_answers(), torch.tensor([True, True, False, True])
    >>> best_of_n(place_outcome(torch.tensor([0.2, 0.9, 5.0, -1.0]), known, traj), traj).row
    tensor([1, 3])
    """
    return leaders(*outcome(channel, traj), traj)


def leaders(score: Float[Tensor, " N"], known: Bool[Tensor, " N"], traj: Trajectories) -> Chosen:
    """The row of each group with the highest known score; ties, and groups in which nothing is known, go to the least id.

    >>> from payoff.examples import four_answers
    >>> found = leaders(torch.tensor([1.0, 1.0, 7.0, 8.0]), torch.tensor([True, True, False, False]), four_answers())
    >>> found.row.tolist(), found.score.tolist(), found.known.tolist()
    ([0, 2], [1.0, 0.0], [True, False])
    """
    key = sets(traj, "group")[:, 0]
    rows = (rank(score, key, known, traj.id) == 0).nonzero().squeeze(1)
    group = key.unique(return_inverse=True)[1]
    order = torch.arange(len(traj), device=traj.device)
    first = torch.full_like(rows, len(traj)).scatter_reduce(0, group, order, "amin")
    rows = rows[first[group[rows]].argsort()]
    return Chosen(rows, torch.where(known[rows], score[rows].double(), 0), known[rows])
