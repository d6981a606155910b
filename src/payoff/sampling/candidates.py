"""What curricula share: a pool of starts to choose from, the best of them, and what came of each start that was tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from payoff.pipeline import Start, Task
from payoff.trajectories import Rewards, Trajectories, outcome


class Visits(NamedTuple):
    """What came of every start in a batch, in the order in which they first appear; float64.

    ids:   the starts
    row:   a row of each
    known: rollouts of it with a verdict
    total: sum of their outcomes
    equal: all of them are equal (so are one, and none)
    """

    ids: list[str]
    row: Int[Tensor, " S"]
    known: Float[Tensor, " S"]
    total: Float[Tensor, " S"]
    equal: list[bool]


def visits(part: str, traj: Trajectories, rewards: Rewards, by: str, *, threshold: float | None = None) -> Visits:
    """The known outcomes in the channel `by` of every start, rollouts of all its groups together; 1 above `threshold` and else 0.

    Raises KeyError for a channel nobody gives, ValueError for rollouts that do not say which start they are of.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers()
    >>> traj = traj.replace(items=[{**item, "start": item["prompt"]} for item in traj.items])
    >>> paid = place_outcome(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([True, False, True, True]), traj)
    >>> found = visits("example", traj, {"correct": paid}, "correct")
    >>> found.ids, found.known.tolist(), found.total.tolist(), found.equal
    (['1+1=', '2+3='], [1.0, 2.0], [1.0, 1.0], [True, False])
    """
    if by not in rewards:
        raise KeyError(f"{part}: no reward channel {by!r}; there are {sorted(rewards)}")
    if len(traj.items) != len(traj) or any("start" not in item for item in traj.items):
        raise ValueError(f'{part}: every rollout must say which start it is of, as its item\'s "start"')
    value, valid = outcome(rewards[by], traj)
    value, valid = value.double().cpu(), valid.cpu()
    if threshold is not None:
        value = (value > threshold).double()
    place: dict[str, int] = {}
    of = torch.tensor([place.setdefault(item["start"], len(place)) for item in traj.items], dtype=torch.int64)
    zeros = torch.zeros(len(place), dtype=torch.float64)
    high = (zeros - torch.inf).scatter_reduce(0, of, torch.where(valid, value, -torch.inf), "amax")
    low = (zeros + torch.inf).scatter_reduce(0, of, torch.where(valid, value, torch.inf), "amin")
    return Visits(
        ids=list(place),
        row=torch.full((len(place),), len(traj)).scatter_reduce(0, of, torch.arange(len(traj)), "amin"),
        known=zeros.index_add(0, of, valid.double()),
        total=zeros.index_add(0, of, torch.where(valid, value, 0)),
        equal=(high <= low).tolist(),
    )


def draw_pool(task: Task, n: int, times: int, rng: torch.Generator) -> list[Start]:
    """`times` * n starts as the task draws them, each start once; for times = 1 all n of them, so that nothing is chosen."""
    drawn = task.starts(times * n, rng)
    return list(drawn) if times == 1 else list({start.id: start for start in drawn}.values())


def best(starts: Sequence[Start], score: Float[Tensor, " M"], n: int) -> list[Start]:
    """The n starts of the highest score, ties in the order in which they were drawn; the same ones again where there are fewer."""
    order = score.argsort(descending=True, stable=True).tolist()
    return [starts[order[i % len(order)]] for i in range(n)]
