"""Which rollouts are trained on: row numbers to keep, in their order, decided before any statistic is taken.

Groups are kept or left as a whole, by a named reward and its outcome. Name the reward that stands for the truth, such as
"correct": what tells an informative prompt from a useless one is whether its rollouts differ in that, not in shaped terms.
Keeping nothing is an answer too.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.sets import rank, sets, statistics
from payoff.trajectories import Rewards, Trajectories, outcome


@method("keep-all", kind="selection")
def keep_all(rewards: Rewards, traj: Trajectories) -> Int[Tensor, " M"]:
    """Keep every row, in order: no filter at all.

    >>> from payoff.examples import four_answers
    >>> keep_all({}, four_answers())
    tensor([0, 1, 2, 3])
    """
    return torch.arange(len(traj), device=traj.device)


@method("valid-only", kind="selection")
def valid_only(rewards: Rewards, traj: Trajectories, *, by: str = "correct") -> Int[Tensor, " M"]:
    """The rows whose outcome in the channel `by` is known.

    An unknown verdict never enters a statistic or a gradient anyway; this also spares the work on it, and makes its group smaller.
    Raises KeyError for a channel nobody gives.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> known = torch.tensor([True, False, True, True])
    >>> valid_only({"correct": place_outcome(torch.zeros(4), known, four_answers())}, four_answers())
    tensor([0, 2, 3])
    """
    return _rows(_outcome("valid_only", rewards, traj, by)[1])


@method("drop-equal-groups", kind="selection", paper="arXiv:2503.14476", sees="group")
def drop_equal_groups(rewards: Rewards, traj: Trajectories, *, by: str = "correct") -> Int[Tensor, " M"]:
    """The groups whose known outcomes in the channel `by` are not all equal (dynamic sampling, DAPO, eq. 11, by any reward).

    Equal means exactly equal, whatever the value. A group with one known outcome, or none, is left out; members without a
    verdict stay with their group. Raises KeyError for a channel nobody gives.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers()
    >>> correct = place_outcome(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> drop_equal_groups({"correct": correct}, traj)
    tensor([2, 3])
    """
    score, known = _outcome("drop_equal_groups", rewards, traj, by)
    return _rows(~statistics(score, sets(traj, "group")[:, 0], known).equal)


@method("pass-rate", kind="selection", paper="arXiv:2502.01456", sees="group")
def pass_rate_between(
    rewards: Rewards, traj: Trajectories, *, by: str = "correct", low: float = 0.2, high: float = 0.8
) -> Int[Tensor, " M"]:
    """The groups whose mean known outcome in the channel `by` lies in [low, high], bounds included (PRIME's prompt filter).

    With rewards of 0 and 1 that is the pass rate: prompts neither hopeless nor solved. Members without a verdict stay with their
    group; a group without any verdict is left out. Raises ValueError for low > high, KeyError for a channel nobody gives.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers()
    >>> correct = place_outcome(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> pass_rate_between({"correct": correct}, traj)
    tensor([2, 3])
    """
    if low > high:
        raise ValueError(f"pass_rate_between: low must be at most high, got {low} > {high}")
    score, known = _outcome("pass_rate_between", rewards, traj, by)
    found = statistics(score, sets(traj, "group")[:, 0], known)
    return _rows((found.count > 0) & (found.mean >= low) & (found.mean <= high))


@method("top-k", kind="selection", sees="group")
def top_k_per_group(rewards: Rewards, traj: Trajectories, *, by: str = "correct", k: int = 1) -> Int[Tensor, " M"]:
    """The k rows of each group with the highest known outcome in the channel `by`; ties go to the smaller id.

    Rejection sampling (k = 1 with a likelihood loss). What is left is no fair sample: a baseline over it is biased.
    Fewer than k known: those. Raises ValueError for k < 1, KeyError for a channel nobody gives.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers()
    >>> correct = place_outcome(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> top_k_per_group({"correct": correct}, traj)
    tensor([0, 3])
    """
    if k < 1:
        raise ValueError(f"top_k_per_group: k must be at least 1, got {k}")
    score, known = _outcome("top_k_per_group", rewards, traj, by)
    return _rows(known & (rank(score, sets(traj, "group")[:, 0], known, traj.id) < k))


def _outcome(name: str, rewards: Rewards, traj: Trajectories, by: str) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    if by not in rewards:
        raise KeyError(f"{name}: no reward channel {by!r}; there are {sorted(rewards)}")
    return outcome(rewards[by], traj)


def _rows(keep: Bool[Tensor, " N"]) -> Int[Tensor, " M"]:
    return keep.nonzero().squeeze(1)
