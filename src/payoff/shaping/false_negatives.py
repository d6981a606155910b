"""Low scores that may be mistakes, softened by another look at the rollout."""

from __future__ import annotations

import math

import torch

from payoff.catalogue import method
from payoff.pipeline import merge_reasons
from payoff.trajectories import Rewards, Trajectories, outcome, place_outcome


@method("reasoning-pattern-reward", kind="shaping", paper="arXiv:2505.22653")
def softened_low_scores(
    rewards: Rewards,
    traj: Trajectories,
    *,
    score: str = "score",
    pattern: str = "pattern",
    below: float = 0.5,
    weight: float = 0.1,
    most: float = 1.0,
    into: str = "softened",
) -> Rewards:
    """Add a channel: score where it is at least `below`, else min(score + weight pattern, most) (calibrating a noisy reward model).

    What a reward model scores low may be good all the same; a little of the pattern reward keeps such answers from counting as
    nothing, and what it scores high is left alone. pattern is what the grader `reasoning-pattern-reward` pays, or any sign of
    quality in 0..1; score a model's, 0..1. With weight 0 it is the score. A low score is raised by at most `weight`: one from
    below - weight on can pass a score just above `below`, and stuffing phrases into a bad answer pays that much.

    For verdicts of 0 and 1 the grader with `correct` pays the whole pattern instead. Unknown where the score is, and where it is
    low and the pattern is unknown. The parts stay. Raises KeyError for a channel nobody gives, ValueError where `into` is taken,
    for a weight below 0 or not finite, and most below `below`.

    >>> from payoff.examples import four_answers
    >>> traj, sure = four_answers(), torch.ones(4, dtype=torch.bool)
    >>> values = {"score": [0.2, 0.2, 0.5, 0.9], "pattern": [0.0, 1.0, 1.0, 0.0]}
    >>> rewards = {name: place_outcome(torch.tensor(x), sure, traj) for name, x in values.items()}
    >>> outcome(softened_low_scores(rewards, traj)["softened"], traj)[0]
    tensor([0.2000, 0.3000, 0.5000, 0.9000])
    """
    if not 0 <= weight < math.inf or not below <= most:
        raise ValueError(
            f"softened_low_scores: weight must be a number >= 0 and most at least below, got {weight}, {most} and {below}"
        )
    if lost := [name for name in (score, pattern) if name not in rewards]:
        raise KeyError(f"softened_low_scores: no reward channel {lost[0]!r}; there are {sorted(rewards)}")
    if into in rewards:
        raise ValueError(f"softened_low_scores: there already is a reward channel {into!r}; choose another name with `into`")
    (s, s_known), (p, p_known) = (outcome(rewards[name], traj) for name in (score, pattern))
    low = s < below
    value = torch.where(low, (s + weight * torch.where(p_known, p, 0)).clamp(max=most), s)
    known = s_known & (p_known | ~low)
    return {**rewards, into: place_outcome(value, known, traj, merge_reasons([rewards[score], rewards[pattern]]))}
