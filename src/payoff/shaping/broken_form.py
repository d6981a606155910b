"""A score that is paid in good form alone, and a penalty in bad form."""

from __future__ import annotations

import math

import torch

from payoff.catalogue import method
from payoff.pipeline import merge_reasons
from payoff.trajectories import Rewards, Trajectories, outcome, place_outcome


@method("rlpr", kind="shaping", paper="arXiv:2506.18254")
def penalised_form(
    rewards: Rewards,
    traj: Trajectories,
    *,
    score: str = "probability",
    form: str = "form",
    broken: float = -1.0,
    into: str = "rlpr",
) -> Rewards:
    """Add a channel: the score where the form is 1, `broken` where it is not (RLPR's format penalty).

    It is the variant of a coefficient of -1; the paper's own reward with c = 0.1 is the weighted sum of 0.9 score and 0.1 form, the
    shaping `mix`, where a reward can be had for bad form too. The score lies in 0..1, so -1 is below any answer in form, and a
    group with one broken answer has its largest advantage there: the form is learned first, and what the score says is squeezed
    by `grpo` as long as it is not.

    Known without the score where the form is broken. Unknown where the form is, and in good form where the score is. The parts
    stay. Raises KeyError for a channel nobody gives, ValueError where `into` is taken or `broken` is not finite.

    >>> from payoff.examples import four_answers
    >>> traj, sure = four_answers(), torch.ones(4, dtype=torch.bool)
    >>> values = {"probability": [0.3, 0.0, 0.9, 0.9], "form": [1.0, 1.0, 1.0, 0.0]}
    >>> rewards = {name: place_outcome(torch.tensor(x), sure, traj) for name, x in values.items()}
    >>> outcome(penalised_form(rewards, traj)["rlpr"], traj)[0]
    tensor([ 0.3000,  0.0000,  0.9000, -1.0000])
    """
    if not math.isfinite(broken):
        raise ValueError(f"penalised_form: broken must be finite, got {broken}")
    if lost := [name for name in (score, form) if name not in rewards]:
        raise KeyError(f"penalised_form: no reward channel {lost[0]!r}; there are {sorted(rewards)}")
    if into in rewards:
        raise ValueError(f"penalised_form: there already is a reward channel {into!r}; choose another name with `into`")
    (s, s_known), (f, f_known) = (outcome(rewards[name], traj) for name in (score, form))
    good = f == 1
    value = torch.where(good, torch.where(s_known, s, 0), broken)
    known = f_known & (s_known | ~good)
    return {**rewards, into: place_outcome(value, known, traj, merge_reasons([rewards[score], rewards[form]]))}
