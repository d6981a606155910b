"""PRIME's treatment of rewards that come at every token: bounded returns, and a leave-one-out mean that weighs rollouts alike."""

from __future__ import annotations

import torch

from payoff.advantages.actions import known_actions, known_positions, row_blocks, row_counts
from payoff.advantages.arrays import apart, centred, clean, cleaned, keep_, plain, same
from payoff.catalogue import method
from payoff.sets import sets, statistics
from payoff.trajectories import Channel, Trajectories


@method("prime-scale", kind="advantage", paper="arXiv:2502.01456", sees="batch")
def unit_return(channel: Channel, traj: Trajectories, *, eps: float = 1e-6) -> Channel:
    """Divide all payments by the largest return-to-go of the batch, so that no return leaves [-1, 1] (PRIME's reward scaling).

    r_t / (max_{i, t} |sum_{k >= t} r_k| + eps), the maximum over known payments where the policy acted. An implicit reward grows
    without bound with its model's log-ratio, and its coefficient cancels here. A transform of payments: put it first.

    A batch of zeros stays 0. An unknown payment stays unknown and adds nothing to the returns before it.

    >>> from payoff.examples import four_answers
    >>> paid = Channel(torch.tensor([[1.0, -2.0, 5.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> unit_return(paid, four_answers(), eps=0.0).value[0]
    tensor([ 0.2000, -0.4000,  1.0000])
    """
    value, known = channel.value.expand(traj.mask.shape), known_positions(channel, traj)
    if plain(value):
        acted, paid = same(known, traj.own), torch.empty(value.shape, dtype=value.dtype)
        total, most, least = torch.empty(3, len(value), 1, dtype=torch.promote_types(value.dtype, torch.float32))
        # A return is the total less what came before, which is at most twice the largest return: as exact as from the end.
        for rows in row_blocks(traj):
            part = clean(value[rows], known[rows], out=paid[rows])
            before = part.cumsum(1, dtype=total.dtype)
            total[rows] = before[:, -1:]
            if not acted:  # the returns where the policy acted, with their sign turned
                before = keep_(before.sub_(part).sub_(total[rows]), traj.own[rows])
                total[rows] = 0
            torch.amax(before, 1, keepdim=True, out=most[rows])
            torch.amin(before, 1, keepdim=True, out=least[rows])
        row = torch.maximum(most.clamp_(min=0).sub_(total), total.sub(least.clamp_(max=0)))
    else:
        paid = torch.where(known, value, 0)
        row = torch.where(traj.own, paid.flip(1).cumsum(1).flip(1).abs(), 0).amax(1, keepdim=True)
    largest = statistics(row, sets(traj, "batch"), torch.ones_like(row, dtype=torch.bool)).high + eps
    largest = torch.where(largest > 0, largest, 1).to(paid.dtype)
    paid = paid / largest if paid.requires_grad or largest.requires_grad else paid.div_(largest)
    return Channel(paid, channel.valid, channel.reasons)


@method("prime-rloo", kind="advantage", paper="arXiv:2502.01456", sees="group")
def token_leave_one_out(channel: Channel, traj: Trajectories) -> Channel:
    """Centre payments that come at every action by the other rollouts' means per action (PRIME).

    A_t = (n r_t - sum_{i in group} m_i) / (n - 1), with m_i the mean of rollout i's known payments over its own actions and n the
    rollouts that have any; so the mean of A over a rollout is m_i - mean_{j != i} m_j. Follow it with `return_to_go`, and with
    `whiten` as the paper does; the outcome goes down a path of its own through `leave_one_out`. A rollout's own mean takes part in
    its baseline, so that as a return-to-go later actions weigh up to n / (n - 1) times too much.

    Payments where the policy did not act stay as they are. A rollout alone gets 0; equal payments get exactly 0.

    >>> from payoff.examples import four_answers
    >>> paid = Channel(torch.tensor([[1.0, 3.0, 9.0], [0.0, 3.0, 9.0]] * 2), torch.ones(4, 1, dtype=torch.bool))
    >>> traj = four_answers().replace(mask=torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool())
    >>> token_leave_one_out(paid, traj).value[:2]
    tensor([[-1.5000,  2.5000,  9.0000],
            [-3.5000,  2.5000,  0.0000]])
    """
    known = known_actions(channel, traj)
    count = row_counts(known)
    has = count > 0
    total = torch.cat([part.sum(1) for _, part in cleaned(channel.value.expand(known.shape), known, torch.float64)])
    found = statistics(total / count.clamp(min=1), sets(traj, "group")[:, 0], has)
    others = found.count - has.double()
    # n r - sum m, written as differences from the mean of the m, so that equal payments cancel exactly.
    dtype = channel.value.dtype
    factor = torch.where(others > 0, found.count / others.clamp(min=1), 0)[:, None].to(dtype)
    result = centred(channel.value, found.mean[:, None].to(dtype), known, factor)
    if not (known is traj.own and bool((count == traj.length).all())):  # some position may be no own action
        others_own = apart(known_positions(channel, traj), traj.own)
        result = result if others_own is None else torch.where(others_own, channel.value, result)
    return Channel(result, channel.valid, channel.reasons)
