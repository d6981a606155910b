"""Rewards for runs of steps that were judged alike: a thought is one unit, however many steps it is written in."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import pad

from payoff.catalogue import method
from payoff.pipeline import merge_reasons
from payoff.sets import sets, statistics
from payoff.trajectories import Rewards, Trajectories, outcome, per_step, place_steps


@method("tp-grpo", kind="shaping", paper="arXiv:2507.23317", sees="group")
def thought_rewards(
    rewards: Rewards,
    traj: Trajectories,
    *,
    by: str = "correct",
    labels: str = "labels",
    alpha: float = 0.5,
    unit: Literal["thought", "step"] = "thought",
    threshold: float = 0.5,
    ddof: int = 0,
    into: str = "thoughts",
) -> Rewards:
    """Pay runs of steps that were judged alike, so that the sum from each on is its advantage (TP-GRPO), in the channel `into`.

    `labels` pays 1 in a step that is wrong and 0 in others: in a right solution one that depends on an error which was found later,
    in a wrong one a step whose content is in the wrong answer. A thought is a longest run of steps of one label, paid at its end:
    right solution: +r_c, or -r_c if wrong, with r_c = alpha times the group's mean outcome; wrong solution: o_i if wrong, and -o_i
    if not; the last thought of either is paid o_i = (outcome - mean) / std of the group alone, whatever its label.
    Labels alternate, so `return-to-go` (and no advantage after it) gives a right solution's good thoughts o_i and its bad ones
    o_i - r_c if the last is good, and a wrong one's bad thoughts o_i and its good ones 0 if the last is bad; a last thought of the
    other label moves what comes before it by r_c, or by o_i. Unit "step" pays every step, and two bad steps then take 2 r_c
    from all that comes before them.

    alpha is not published. The other channels pass unchanged. Equal outcomes: o = 0, of a right solution r_c remains. A trajectory
    with a step without label is unknown throughout, and so is one without outcome, which takes no part in mean and std.
    Raises KeyError for a channel that is not there, ValueError for alpha < 0 and a label other than 0 and 1.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import Channel, place_outcome
    >>> traj, known = four_answers(), torch.ones(4, dtype=torch.bool)
    >>> judged = Channel(torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]] * 2), known[:, None])
    >>> correct = place_outcome(torch.tensor([1.0, 0.0, 0.0, 1.0]), known, traj)
    >>> thought_rewards({"correct": correct, "labels": judged}, traj)["thoughts"].value
    tensor([[ 0.2500, -0.2500,  1.0000],
            [ 1.0000, -1.0000,  0.0000],
            [ 1.0000, -1.0000, -1.0000],
            [ 1.0000,  0.0000,  0.0000]])
    """
    if not alpha >= 0:
        raise ValueError(f"thought_rewards: alpha must be at least 0, got {alpha}")
    if lost := [name for name in (by, labels) if name not in rewards]:
        raise KeyError(f"thought_rewards: no reward channel {lost[0]!r}; there are {sorted(rewards)}")
    label, here, told = per_step(rewards[labels], traj)
    if (odd := told & (label != 0) & (label != 1)).any():
        raise ValueError(f"thought_rewards: a label is 1 for a wrong step and 0 for another, got {float(label[odd][0])}")
    result, settled = outcome(rewards[by], traj)
    found = statistics(result, sets(traj, "group")[:, 0], settled, ddof=ddof)
    relative = torch.where(found.std > 0, (result.double() - found.mean) / torch.where(found.std > 0, found.std, 1), 0)
    relative = relative.to(result.dtype)[:, None]
    pays = (alpha * found.mean).to(result.dtype)[:, None]
    amount = torch.where((result > threshold)[:, None], pays, -relative)
    last = here & ~pad(here[:, 1:], (0, 1))
    ends = here if unit == "step" else last | (here & (pad(label[:, 1:], (0, 1)) != label))
    paid = torch.where(last, relative, torch.where(label == 0, amount, -amount))
    valid = (settled & (told | ~here).all(1))[:, None].expand(here.shape)
    paid = torch.where(ends & valid, paid + 0.0, 0)
    return {**rewards, into: place_steps(paid, valid, traj, merge_reasons([rewards[labels], rewards[by]]))}
