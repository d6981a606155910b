"""A score of the reasoning that counts only where the outcome is right."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.pipeline import merge_reasons
from payoff.trajectories import Rewards, Trajectories, outcome, place_outcome


@method("p-grpo", kind="shaping", paper="arXiv:2508.05170")
def gated_process(
    rewards: Rewards,
    traj: Trajectories,
    *,
    form: str = "form",
    correct: str = "correct",
    process: str = "process",
    into: str = "p-grpo",
) -> Rewards:
    """Add a channel R = form + correct + correct * process (posterior-GRPO): `grpo` then ranks right answers by their reasoning.

    form and correct are 0 or 1, process, a score of the reasoning, lies in 0..1: R in 0..3, and any well-formed right answer is
    above any wrong one, whatever is said of its reasoning. A group that is right throughout, which says nothing otherwise, now
    says which reasoning is better; a group that is wrong throughout and well-formed says nothing still.

    It keeps the policy from winning by reasoning that only looks good and ends wrong. It does not keep it from doing so among right
    answers; and where all are right `grpo` blows the smallest difference of process up to unit size.
    Unknown where form or correct is, and where correct is not 0 and process is unknown; a wrong answer's need not be known.
    The parts stay. Raises KeyError for a channel nobody gives, ValueError where `into` is taken or a part leaves 0..1.

    >>> from payoff.examples import four_answers
    >>> traj, sure = four_answers(), torch.ones(4, dtype=torch.bool)
    >>> values = {"form": [1.0, 1.0, 1.0, 0.0], "correct": [1.0, 0.0, 1.0, 0.0], "process": [0.25, 0.75, 0.5, 1.0]}
    >>> rewards = {name: place_outcome(torch.tensor(x), sure, traj) for name, x in values.items()}
    >>> outcome(gated_process(rewards, traj)["p-grpo"], traj)[0]
    tensor([2.2500, 1.0000, 2.5000, 0.0000])
    """
    names = (form, correct, process)
    if lost := [name for name in names if name not in rewards]:
        raise KeyError(f"gated_process: no reward channel {lost[0]!r}; there are {sorted(rewards)}")
    if into in rewards:
        raise ValueError(f"gated_process: there already is a reward channel {into!r}; choose another name with `into`")
    parts = [rewards[name] for name in names]
    (f, f_known), (c, c_known), (p, p_known) = known = [outcome(part, traj) for part in parts]
    for name, (value, sure) in zip(names, known, strict=True):
        if (sure & ((value < 0) | (value > 1))).any():
            raise ValueError(f"gated_process: {name!r} must lie in 0..1, or a wrong answer may pass a right one; bound it first")
    valid = f_known & c_known & (p_known | (c == 0))
    return {**rewards, into: place_outcome(f + c + c * torch.where(p_known, p, 0), valid, traj, merge_reasons(parts))}
