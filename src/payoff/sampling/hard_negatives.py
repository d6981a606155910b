"""Pairs of a right answer and the wrong ones that a scorer holds for the best: what it still has to learn."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.sets import rank
from payoff.trajectories import Channel, Pairs, Trajectories, outcome


@method("reward-ranker", kind="pairing", paper="arXiv:2504.09643", sees="group")
def hard_negatives(
    channel: Channel, traj: Trajectories, right: Channel | None = None, *, negatives: int | None = 1, margin: float = 0.0
) -> Pairs:
    """Every right rollout of a start against its wrong ones of the highest score (RewardRanker's hard negatives).

    channel:   the score of each rollout, all that is paid in it
    right:     what is right, above 1/2; None: each item's field "correct"
    negatives: so many wrong ones for each right one, the highest scores first (equal ones: the smaller id); None: all
    margin:    only those that come within `margin` of the right one's score or above it count as hard; needs negatives

    The right rollout is first, labels and weights are 1. A rollout whose score or verdict is unknown is in no pair; a start without
    right or without wrong ones gives none. Take starts to train on: pairs made of evaluation prompts teach the answers.
    Raises ValueError for negatives < 1, a margin below 0, and items that say nothing of what is right.

    >>> from payoff.examples import four_answers
    >>> traj, known = four_answers().replace(group=torch.zeros(4, dtype=torch.int64)), torch.ones(4, 1, dtype=torch.bool)
    >>> scores = Channel(torch.tensor([[0.3], [0.9], [0.5], [0.1]]).expand(4, 3) / traj.length[:, None], known)
    >>> right = Channel(torch.tensor([[1.0, 0.0, 0.0]] * 1 + [[0.0] * 3] * 3), known)
    >>> hard_negatives(scores, traj, right).index.tolist(), hard_negatives(scores, traj, right, negatives=2).index.tolist()
    ([[0, 1]], [[0, 1], [0, 2]])
    """
    if (negatives is not None and negatives < 1) or margin < 0:
        raise ValueError(f"hard_negatives: negatives must be at least 1 and margin at least 0, got {negatives} and {margin}")
    score, sure = outcome(channel, traj)
    if right is None:
        said = [item.get("correct") for item in traj.items]
        if not said or all(x is None for x in said):
            raise ValueError('hard_negatives: needs what is right: a channel, or a field "correct" in the items')
        verdict = torch.tensor([float(x or 0) for x in said], device=traj.device)
        known = torch.tensor([x is not None for x in said], device=traj.device)
    else:
        verdict, known = outcome(right, traj)
    sure = sure & known & traj.mask.any(1)
    good, bad = sure & (verdict > 0.5), sure & (verdict <= 0.5)
    place = rank(score, traj.group, bad, traj.id)
    hard = bad if negatives is None else bad & (place < negatives)
    first, second = good.nonzero()[:, 0], hard.nonzero()[:, 0]
    second = second[place[second].argsort(stable=True)]
    same = traj.group[first][:, None] == traj.group[second]
    if margin:
        same = same & (score[second] > score[first][:, None] - margin)
    a, b = same.nonzero(as_tuple=True)
    index = torch.stack([first[a], second[b]], 1)
    ones = torch.ones(len(index), dtype=score.dtype, device=traj.device)
    return Pairs(index, ones, ones)
