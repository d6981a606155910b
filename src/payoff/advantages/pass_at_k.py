"""Advantages for the best of several tries: the gradient of pass@k and of the mean best-of-k, and of their mixture, log p."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.sets import rank, sets, statistics
from payoff.trajectories import Channel, Trajectories, at_start, constant

Against = Literal["without", "others", "group"]


@method("pass-at-k", kind="advantage", paper="arXiv:2505.15201", sees="group")
def pass_at_k(channel: Channel, traj: Trajectories, *, k: int = 4, against: Against = "without") -> Channel:
    """The policy gradient of the mean best of k rollouts, of pass@k if right is 1 and wrong 0 (PKPO), from groups of n >= k.

    A_i = k (m_i - b_i), m_i = the mean of max C over all subsets of k rollouts of the group with i in them, C a rollout's credit at
    its first action. The mean over the group of A_i grad log pi_i is an unbiased estimate of grad E[max of k rollouts].

    against: b_i, what is subtracted. "without": the same subsets' max without i (PKPO's leave-one-out minus one), so A_i >= 0; the
                 less noisy one where answers are right or wrong
             "others": the mean of max C over all subsets of k others (leave-one-out), which can be less noisy for graded
                 rewards and small k; needs n > k
             "group":  that over all subsets of k of the group, i included (as in "Pass@k training", there over its standard
                 deviation): 1 - k / n of the gradient

    With k = 1 this is `leave_one_out` ("group": `mean_baseline`). With k = n and "without" all but the best get 0, and the best
    k (C_1st - C_2nd): k times verl's grpo_passk. An answer is paid for what no other try of its subset had; once several succeed
    there is nothing left to gain, and the gradient shrinks as (1 - p)^(k - 1).

    [N, 1]: a rollout counts as a whole. Equal credits get exactly 0. Groups with fewer than k known rollouts (k + 1 with "others")
    can say nothing about the best of k, and get 0. Raises ValueError for k < 1 and an unknown `against`.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.0], [1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> one_start = four_answers().replace(group=torch.zeros(4, dtype=torch.int64))
    >>> pass_at_k(credit, one_start, k=2).value.T
    tensor([[1.3333, 0.0000, 0.0000, 1.3333]])
    >>> pass_at_k(credit, one_start, k=1).value.T
    tensor([[ 0.6667, -0.6667, -0.6667,  0.6667]])
    """
    if k < 1:
        raise ValueError(f"pass_at_k: k must be >= 1, got {k}")
    if against not in ("without", "others", "group"):
        raise ValueError(f'pass_at_k: against must be "without", "others" or "group", got {against!r}')
    credit, known = at_start(channel, traj)
    row, place, block, count = _sorted_groups(credit, known, traj)
    n = count[:, None]
    below = torch.arange(block.shape[1], dtype=torch.float64, device=block.device)[None]  # how many lie below each
    against = "others" if k == 1 and against == "without" else against
    choose = lambda top, bottom, of_n, of_k: (_log_choose(top, bottom) - _log_choose(of_n, of_k)).exp()
    if against == "without":
        # C_i - C_j is a sum of gaps between neighbours, and those below a gap sum to one binomial more: all terms are >= 0.
        gap = torch.diff(block, dim=1, prepend=block[:, :1])
        result = k * (gap * choose(below, k - 1.0, n - 1, k - 1.0)).cumsum(1)
    else:
        exists = below < n
        # max over the subsets with i: its own where it is the largest, else that of the one which is
        larger = torch.where(exists, block * choose(below - 1, k - 2.0, n - 1, k - 1.0), 0)
        above = larger.flip(1).cumsum(1).flip(1) - larger
        best = block * choose(below, k - 1.0, n - 1, k - 1.0) + above
        if against == "group":
            base = torch.where(exists, block * choose(below, k - 1.0, n, float(k)), 0).sum(1, keepdim=True).expand_as(block)
        else:
            lower = torch.where(exists, block * choose(below, k - 1.0, n - 1, float(k)), 0)
            upper = torch.where(exists, block * choose(below - 1, k - 1.0, n - 1, float(k)), 0)
            base = (lower.cumsum(1) - lower) + (upper.flip(1).cumsum(1).flip(1) - upper)
        result = k * (best - base)
    enough = count >= k + (against == "others")
    mine = row * result.shape[1] + place
    value = torch.where(known & enough.index_select(0, row), result.flatten().index_select(0, mine), 0)
    return constant(value.to(channel.value.dtype), known, channel.reasons)


@method("grpo-passk", kind="advantage", paper="arXiv:2503.19595", sees="group")
def best_of_group(channel: Channel, traj: Trajectories, *, scale: Literal["std", "none"] = "std", eps: float = 1e-6) -> Channel:
    """Pay the best rollout of a group alone, by how far it is ahead of the second (verl's grpo_passk).

    A = (C_1st - C_2nd) / (std_group C + eps) for the best, 0 for all others; divisor n - 1. C is a credit at the first action.
    scale "none" leaves C_1st - C_2nd: n times that is `pass_at_k` with k = n, an unbiased gradient of the mean best of n; divided
    by the spread it is not.

    [N, 1]. A tie for the best gives exactly 0 to all, and so do equal credits and groups of one.
    Raises ValueError for an unknown scale.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.7], [0.7]]), torch.ones(4, 1, dtype=torch.bool))
    >>> best_of_group(credit, four_answers()).value.T
    tensor([[1.4142, 0.0000, 0.0000, 0.0000]])
    """
    if scale not in ("std", "none"):
        raise ValueError(f'best_of_group: scale must be "std" or "none", got {scale!r}')
    credit, known = at_start(channel, traj)
    group = sets(traj, "group")[:, 0]
    found = statistics(credit, group, known)
    place = rank(credit, group, known, traj.id)
    second = statistics(credit, group, known & (place == 1))
    ahead = torch.where((place == 0) & (second.count > 0), credit.double() - second.mean, 0)
    value = ahead / torch.where(found.std > 0, found.std + eps, 1) if scale == "std" else ahead
    return constant(torch.where(known, value, 0).to(channel.value.dtype), known, channel.reasons)


@method("max-rl", kind="advantage", paper="arXiv:2602.02710", sees="group")
def mean_normalised(channel: Channel, traj: Trajectories, *, low: float = 0.0) -> Channel:
    """Compare a rollout with the mean of its group, in units of that mean (MaxRL): climbs log p instead of p.

    A = (C - c) / c, c = mean_group C with C = credit - low; 0 where c is 0. For outcomes of 0 and 1, with p the success rate and n
    rollouts in a group, the mean gradient is exactly sum_{j=1}^{n-1} grad pass@j / j = grad p (1 - (1 - p)^(n-1)) / p, which goes
    to grad log p: rare successes weigh as 1 / p. (C / c alone would give the sum to n; groups with no success, where nothing can be
    subtracted, cost its last term.)

    low: the least reward there can be. Negative credits would turn the sign, so a credit below it is refused.
    Equal credits get exactly 0, and so do groups of one. Raises ValueError for a credit below `low`.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> one_start = four_answers().replace(group=torch.zeros(4, dtype=torch.int64))
    >>> mean_normalised(credit, one_start).value.T
    tensor([[ 3., -1., -1., -1.]])
    """
    credit, known = at_start(channel, traj)
    beneath = known & (credit < low)
    if beneath.any():
        row = int(beneath.nonzero()[0, 0])
        raise ValueError(
            f"mean_normalised: credit must be at least low = {low}, trajectory {int(traj.id[row])} has {float(credit[row])}"
        )
    found = statistics(credit, sets(traj, "group")[:, 0], known)
    middle = (found.mean - low)[:, None]
    scale = torch.where((middle > 0) & ~found.equal[:, None], 1 / torch.where(middle > 0, middle, 1), 0)
    dtype, here = channel.value.dtype, channel.valid
    if channel.value.shape[1] == channel.valid.shape[1] == 1:
        value = torch.where(here, channel.value, 0).double() - found.mean[:, None]
    else:
        here = here & traj.exists
        value, scale = torch.where(here, channel.value, 0) - found.mean[:, None].to(dtype), scale.to(dtype)
    return Channel(torch.where(here, value * scale, 0).to(dtype), channel.valid, channel.reasons)


def _sorted_groups(
    credit: Float[Tensor, " N"], known: Bool[Tensor, " N"], traj: Trajectories
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Float[Tensor, "M G"], Float[Tensor, " M"]]:
    """Each rollout's group, its place there from the least known credit up, those credits less the least, and their number.

    Places beyond a group's number are filled with its largest credit, so that nothing is gained there.
    """
    group = sets(traj, "group")[:, 0]
    row = group.unique(return_inverse=True)[1]
    found = statistics(credit, group, known)
    place = torch.where(known, found.count.long() - 1 - rank(credit, group, known, traj.id), 0).clamp(min=0)
    groups = int(row.max()) + 1 if len(row) else 0
    width = max(int(found.count.max()), 1) if len(row) else 1
    one = torch.zeros(groups, dtype=torch.float64, device=credit.device)
    count = one.scatter(0, row, found.count)
    highest = one.scatter(0, row, found.high - found.low)
    block = highest[:, None].repeat(1, width)
    # Those that are unknown write into a place of their own behind the others.
    flat = torch.cat([block.flatten(), block.new_zeros(1)])
    at = torch.where(known, row * width + place, groups * width)
    block = flat.scatter(0, at, credit.double() - found.low)[:-1].view(groups, width)
    return row, place, block, count


def _log_choose(top: Tensor | float, bottom: Tensor | float) -> Tensor:
    """log binom(top, bottom); -inf where there is no such choice (and choosing 0 of fewer than 0 counts as none)."""
    top, bottom = torch.as_tensor(top, dtype=torch.float64), torch.as_tensor(bottom, dtype=torch.float64)
    possible = (bottom >= 0) & (top >= bottom)
    a, b = torch.where(possible, top, 1), torch.where(possible, bottom, 1)
    value = torch.lgamma(a + 1) - torch.lgamma(b + 1) - torch.lgamma(a - b + 1)
    return torch.where(possible, value, -torch.inf)
