"""Advantages against the other rollouts of the same start: GRPO and its namesakes, Dr. GRPO, leave-one-out."""

from __future__ import annotations

import dataclasses
from typing import Literal

from payoff.advantages.normalise import Convention, Ended, Unit, resolve, standardise
from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories

Among = Literal["group", "siblings", "step"]  # sets within a group; for the whole batch there is `standardise`

# "GRPO advantage" as each trainer computes it; the numbers they give on the same rewards are in the tests.
CONVENTIONS = {
    "paper": Convention(),
    "trl": Convention(ddof=1, eps=1e-4),
    "trl-async": Convention(eps=1e-8),
    "verl": Convention(ddof=1, eps=1e-6, single="raw"),
    "skyrl": Convention(ddof=1, eps=1e-6, single="raw"),
    "openrlhf": Convention(ddof=1, eps=1e-9),
    "nemo-rl": Convention(baseline="leave-one-out", scale="leave-one-out-std", ddof=1, eps=1e-6),
    "rllm": Convention(eps=1e-6, single="raw"),
    "open-instruct": Convention(eps=1e-8),
    "prime-rl": Convention(scale="none"),
}


@method("grpo", kind="advantage", paper="arXiv:2402.03300", sees="group")
def grpo(channel: Channel, traj: Trajectories, *, convention: str | Convention = "paper") -> Channel:
    """Compare a rollout with the others of its start, in standard deviations (GRPO, sec. 4.1.2).

    A = (C - mean_group C) / std_group C, with C the rollout's credit at its first action; [N, 1] for a credit of one column.
    A dense credit keeps its shape: b and s of the group are those of the rollouts, applied to every action.

    convention: what a trainer of that name computes: "paper" (divisor n, no epsilon), "trl", "trl-async", "verl", "skyrl",
    "openrlhf" (group_norm), "nemo-rl" (mean and std of the others, undivided where those are equal), "rllm", "open-instruct"
    (standard), "prime-rl" (centred only); or a `Convention` of your own. `CONVENTIONS` has them all.

    Equal rewards get exactly 0 under every convention; in "trl", "verl", "skyrl", "openrlhf" and "nemo-rl" themselves a rounding
    error of the mean is divided by the epsilon there (up to 179 for rewards such as 0.97), the one place where these differ from
    their names on purpose. A group of one gets 0, but in "verl", "skyrl" and "rllm" its own reward, as there.
    Raises ValueError for an unknown convention.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.7], [0.7]]), torch.ones(4, 1, dtype=torch.bool))
    >>> grpo(credit, four_answers()).value.T
    tensor([[ 1., -1.,  0.,  0.]])
    >>> grpo(credit, four_answers(), convention="trl").value.T
    tensor([[ 0.7070, -0.7070,  0.0000,  0.0000]])
    """
    chosen = resolve("grpo", convention, CONVENTIONS)
    return standardise(channel, traj, over="group", **dataclasses.asdict(chosen))


@method("dr-grpo", kind="advantage", paper="arXiv:2503.20783", sees="group")
def dr_grpo(channel: Channel, traj: Trajectories) -> Channel:
    """Compare a rollout with the mean of its group, undivided (Dr. GRPO): `mean_baseline` over the group.

    A = C - mean_group C. Dividing by the group's spread would weigh a start by how seldom its rollouts differ. The other half of
    the method is an aggregation by a constant length. Equal rewards and groups of one get exactly 0.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.7], [0.7]]), torch.ones(4, 1, dtype=torch.bool))
    >>> dr_grpo(credit, four_answers()).value.T
    tensor([[ 0.5000, -0.5000,  0.0000,  0.0000]])
    """
    return mean_baseline(channel, traj)


@method("mean-baseline", kind="advantage", sees="group")
def mean_baseline(channel: Channel, traj: Trajectories, *, over: Among = "group", ended: Ended = "zero") -> Channel:
    """Subtract the mean of the set, the rollout's own number included (REINFORCE with the mean as baseline).

    A_t = C_t - mean C. The baseline depends on the action it is subtracted from: in a group of n the expected gradient is
    (n - 1) / n times the true one, in the same direction; `leave_one_out` has all of it.

    over: "group" or "siblings", each rollout by its credit at its first action; or "step": the mean of the group's steps
    of the same number, each by its credit at its first action, where rollouts that have ended count as `ended` says.
    Equal numbers and sets of one get exactly 0.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [2.0], [2.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> mean_baseline(credit, four_answers()).value.T
    tensor([[ 0.5000, -0.5000,  0.0000,  0.0000]])
    """
    unit: Unit = "step" if over == "step" else "rollout"
    return standardise(channel, traj, over=over, unit=unit, baseline="mean", scale="none", ended=ended)


@method("rloo", kind="advantage", paper="arXiv:2402.14740", sees="group")
def leave_one_out(channel: Channel, traj: Trajectories, *, over: Among = "group", ended: Ended = "zero") -> Channel:
    """Subtract the mean of the other members of the set (RLOO): an unbiased baseline from the batch itself.

    A_t = C_t - mean_{others} C.

    over "group" (or "siblings"): each rollout counts by its credit at its first action, and its baseline is the same at
    all its actions. over "step", for credits that differ by step (return-to-go, immediate): the other rollouts' credit at the
    first action of their step of the same number; a rollout that ended before counts 0, what it still earns (`ended="zero"`,
    provided that its last step is known), or by its last step ("carried"), or not at all ("absent"). A rollout that has such a step
    but does not act in it takes no part. "zero" and "carried" are unbiased; "absent" is biased: a rollout that is the only one to
    get that far loses its credit there. `turn-rloo` leaves it.

    Equal numbers get exactly 0; so does an entry with no other to compare with: a set of one, or the only one known.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[3.0, 2.0, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> leave_one_out(credit, four_answers(), over="step").value
    tensor([[0., 0., 1.],
            [0., 0., 0.],
            [0., 2., 1.],
            [0., 0., 0.]])
    """
    unit: Unit = "step" if over == "step" else "rollout"
    return standardise(channel, traj, over=over, unit=unit, baseline="leave-one-out", scale="none", ended=ended)
