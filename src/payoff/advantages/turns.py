"""Turns compared with the turns of the same number of the other rollouts: the unbiased way, and the obvious one.

Each takes a credit that differs by turn, such as a return-to-go; a turn is a step of the trajectory.
"""

from __future__ import annotations

from typing import Literal

from payoff.advantages.normalise import Ended, standardise
from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories


@method("turn-rloo", kind="advantage", sees="group")
def turn_leave_one_out(channel: Channel, traj: Trajectories, *, ended: Ended = "carried") -> Channel:
    """Subtract from every turn what the group's other rollouts have at their turn of that number: unbiased, however they stop.

    A_ik = C_ik - mean_{j != i} C_j(k), C_ik the credit at the first action of turn k. The baseline is a function of the other
    rollouts and of k, and both are settled before rollout i acts in its turn k: so it has no mean effect on the gradient. Nothing
    more is needed. What counts for others that did not get as far, `ended` says, and it matters to the variance only:

    "carried": a rollout that ended counts by its last turn, so that all others always count; for an outcome paid at the end this is
               leave-one-out over rollouts. Least noisy where payments are of one sign
    "zero":    it counts 0, what it still earns. Least noisy where payments scatter about 0
    "absent":  it does not count. Where nobody else got that far, the turn keeps its credit: to drop it would scale turn k
               by the chance that another rollout gets there

    A rollout that has such a turn but does not act in it takes no part. The only known rollout of a group keeps its credit, which
    is unbiased too. Equal credits get exactly 0 with "carried"; so does an unknown credit.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[3.0, 2.0, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> turn_leave_one_out(credit, four_answers()).value  # lengths 3, 2, 3, 1: the last turns are worth 1, 2, 1, 3
    tensor([[ 0.,  0., -1.],
            [ 0.,  0.,  0.],
            [ 0., -1., -2.],
            [ 0.,  0.,  0.]])
    """
    return standardise(channel, traj, over="step", unit="step", baseline="leave-one-out", scale="none", ended=ended, single="raw")


@method("turn-grpo", kind="advantage", sees="group")
def turn_standardised(
    channel: Channel, traj: Trajectories, *, scale: Literal["std", "none"] = "std", ddof: int = 1, eps: float = 1e-6
) -> Channel:
    """Standardise every turn among the turns of that number which the group's rollouts reached: the obvious way, and a biased one.

    A_ik = (C_ik - mean_j C_jk) / (std_j C_jk + eps) over the n_k rollouts that have a turn k, themselves included.

    Here to be compared with. Undivided (scale "none") the expected gradient of turn k is 1 - E[1 / n_k | turn k is reached] of the
    true one, which falls with k as fewer get that far: late turns are learned more slowly than early ones, and the sum points
    elsewhere. Dividing weighs the turns by their spread on top. `turn-rloo` does neither.

    Equal credits get exactly 0, and so does a turn that nobody else reached. Raises ValueError for an unknown scale.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[3.0, 2.0, 1.0], [1.0, 0.0, 0.0]] * 2), torch.ones(4, 1, dtype=torch.bool))
    >>> turn_standardised(credit, four_answers(), scale="none").value
    tensor([[ 1.,  1.,  0.],
            [-1., -1.,  0.],
            [ 1.,  0.,  0.],
            [-1.,  0.,  0.]])
    """
    return standardise(channel, traj, over="step", unit="step", baseline="mean", scale=scale, ddof=ddof, eps=eps, ended="absent")
