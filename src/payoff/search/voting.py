"""One answer of many: the one that most of them give. Rollouts vote for their answer, evenly, by a weight, or by their rank."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.search.best_of_n import Chosen, leaders
from payoff.sets import rank, sets, statistics
from payoff.trajectories import Channel, Trajectories, outcome

Answer = str | Callable[[Mapping[str, Any]], Hashable | None]


@method("majority", kind="search", paper="arXiv:2203.11171", sees="group")
def majority(traj: Trajectories, *, answer: Answer = "answer") -> Chosen:
    """The answer that most rollouts of each group give (self-consistency); the row is the first that gives it.

    answer: a field of the items, or a function of an item; what it gives must be hashable, and equal answers must be equal there.
            None (or a NaN) is no answer: such a row has no vote

    Equally many votes: the answer that was given first, by id. Of rollouts in any order, that is each of them equally often.
    Raises ValueError for trajectories without items, or none with that field, TypeError for an answer that cannot be hashed.

    >>> from payoff.examples import four_answers
    >>> majority(four_answers(), answer=lambda item: item["response"] or None)
    Chosen(row=tensor([0, 2]), score=tensor([0.5000, 1.0000], dtype=torch.float64), known=tensor([True, True]))
    """
    key, has = answer_keys(traj, answer)
    return elect(torch.ones(len(traj), dtype=torch.float64, device=traj.device), has, key, traj)


@method("weighted-majority", kind="search", sees="group")
def weighted_majority(channel: Channel, traj: Trajectories, *, answer: Answer = "answer") -> Chosen:
    """The answer with the greatest sum of a channel's outcomes over the rows of each group that give it.

    The channel is a weight: a verifier's probability, say. The row is the heaviest that gives the answer. A row whose weight is
    unknown has no vote. Equal weights are `majority`; a weight so uneven that one row outweighs all others is `best_of_n`.
    answer, ties and errors are as for `majority`. Raises ValueError for a weight below 0: make it positive first (a sigmoid, an
    exponential), as what a vote against an answer should mean nobody can know here.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers()
    >>> weight = place_outcome(torch.tensor([0.2, 0.6, 0.5, 0.5]), torch.ones(4, dtype=torch.bool), traj)
    >>> weighted_majority(weight, traj, answer="response").row
    tensor([1, 2])
    """
    key, has = answer_keys(traj, answer)
    weight, known = outcome(channel, traj)
    if (weight < 0).any():
        row = int((weight < 0).nonzero()[0, 0])
        raise ValueError(f"weighted_majority: weights must be at least 0, got {float(weight[row]):g} for row {row}")
    return elect(weight.double(), has & known, key, traj)


@method("borda", kind="search", paper="arXiv:2502.18581", sees="group")
def borda(channel: Channel, traj: Trajectories, *, answer: Answer = "answer", power: float = 0.5) -> Chosen:
    """The answer with most votes, a rollout's vote being a power of its rank by a channel (self-certainty's Borda voting).

    Of K rollouts with a verdict, the one at place r = 1 ... K from the top has (K - r + 1)^power votes. power = 0 is `majority`;
    power = inf (or very large) takes the answer of the highest rollout that has one. The channel's scale does not matter, only its
    order; equal verdicts are in order of id. The paper's power grows with K; 0.5 is that of its script.

    A rollout without an answer keeps its place and has no vote; one without a verdict has neither. The row is the highest that
    gives the answer. answer, ties and errors are as for `majority`. Raises ValueError for power < 0.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers().replace(group=torch.zeros(4, dtype=torch.int64))
    >>> confidence = place_outcome(torch.tensor([9.0, 3.0, 1.0, 2.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> says = lambda item: {"2": "x", "3": "y", "5": "y", "": "y"}[item["response"]]
    >>> borda(confidence, traj, answer=says, power=0.0).row, borda(confidence, traj, answer=says, power=3.0).row  # 1 : 3, 64 : 36
    (tensor([1]), tensor([0]))
    """
    if not power >= 0:
        raise ValueError(f"borda: power must be at least 0, got {power}")
    key, has = answer_keys(traj, answer)
    score, known = outcome(channel, traj)
    group = sets(traj, "group")[:, 0]
    places = statistics(score, group, known).count - rank(score, group, known, traj.id)
    best = statistics(places, group, has & known).high  # of those that can vote at all: votes are compared, and so may be scaled
    vote = torch.where(has & known, (places / best.clamp(min=1)).pow(power), 0)
    return elect(vote, has & known, key, traj)


def elect(
    votes: Float[Tensor, " N"],
    counts: Bool[Tensor, " N"],
    key: Int[Tensor, " N"],
    traj: Trajectories,
    *,
    among: Bool[Tensor, " N"] | None = None,
) -> Chosen:
    """The answer with most votes in each group, by the row that gives it the most; `score` is its share of the group's votes.

    key: the number of each row's answer within its group, as from `answer_keys`. counts: which rows vote at all.
    among: rows whose answers may be chosen; None: all that count. Ties go to the answer given first, by id, and a share of no
    votes is 0.

    >>> from payoff.examples import four_answers
    >>> yes = torch.ones(4, dtype=torch.bool)
    >>> elect(torch.tensor([1.0, 3.0, 2.0, 2.0]).double(), yes, torch.tensor([0, 1, 2, 2]), four_answers()).score
    tensor([0.7500, 1.0000], dtype=torch.float64)
    """
    votes = torch.where(counts, votes, 0).double()
    most = int(key.max()) + 1 if len(key) else 0
    of_answer = votes.new_zeros(most).index_add(0, key, votes)
    open_ = counts if among is None else counts & among
    lead = leaders(of_answer[key], open_, traj)
    won = torch.zeros(most, dtype=torch.bool, device=traj.device)
    won[key[lead.row[lead.known]]] = True
    rows, _, known = leaders(votes, open_ & won[key], traj)
    group = sets(traj, "group")[:, 0].unique(return_inverse=True)[1]
    cast = votes.new_zeros(len(rows)).index_add(0, group, votes)[group[rows]]
    share = of_answer[key[rows]] / torch.where(cast > 0, cast, 1)
    return Chosen(rows, torch.where(known, share, 0), known)


def answer_keys(traj: Trajectories, answer: Answer) -> tuple[Int[Tensor, " N"], Bool[Tensor, " N"]]:
    """A number for the answer of every row, the same for equal answers of one group and no others; and which rows have one.

    answer and errors are as for `majority`.

    >>> from payoff.examples import four_answers
    >>> answer_keys(four_answers(), "reference")[0].tolist()
    [0, 0, 1, 1]
    """
    if len(traj.items) != len(traj):
        raise ValueError("answer_keys: these trajectories have no items, so what they answer is not known")
    if isinstance(answer, str):
        field = answer
        if len(traj) and not any(field in item for item in traj.items):
            raise ValueError(f"answer_keys: no item has a field {field!r}; the first has {sorted(traj.items[0])}")
        given = [item.get(field) for item in traj.items]
    else:
        given = [answer(item) for item in traj.items]
    groups = sets(traj, "group")[:, 0].tolist()
    seen: dict[tuple[int, Hashable], int] = {}
    has = [value is not None and value == value for value in given]  # a NaN equals nothing, itself included
    keys = [seen.setdefault((g, value if some else None), len(seen)) for g, value, some in zip(groups, given, has, strict=True)]
    as_tensor = lambda numbers, dtype: torch.tensor(numbers, dtype=dtype, device=traj.device)
    return as_tensor(keys, torch.int64), as_tensor(has, torch.bool)
