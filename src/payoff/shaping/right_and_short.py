"""Outcome rewards that depend on length and on whether the answer is right. Length is how many actions the policy took."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.sets import rank, sets, statistics
from payoff.trajectories import Channel, StopReason, Trajectories, outcome, place_outcome


@method("cosine-length", kind="shaping", paper="arXiv:2502.03373")
def cosine_length(
    channel: Channel,
    traj: Trajectories,
    *,
    limit: int = 1000,
    right: Sequence[float] = (1.0, 0.5),
    wrong: Sequence[float] = (-1.0, -0.5),
    at_limit: float | None = None,
    threshold: float = 0.5,
) -> Channel:
    """Pay short right answers more than long ones, and long wrong ones more than short ones, along a cosine (cosine reward).

    With L actions: r = v_L + (v_0 - v_L) (1 + cos(pi min(L / limit, 1))) / 2, flat at both ends. (v_0, v_L), what no length and the
    full length pay, are `right` where the outcome reaches `threshold` and `wrong` elsewhere: a wrong answer may think longer.
    It takes the place of the outcome. The defaults and the clamp at the limit are TRL's `get_cosine_scaled_reward`; the paper has
    limit = the trainer's, right (2, 1), wrong (-10, 0) and at_limit -10.

    at_limit: what L >= limit pays, right or wrong; None: the ends of the cosines.
    Range: between the least and the greatest of these numbers. Every right answer stays above every wrong one only where min(right)
    > max(wrong); wrong answers are paid for padding, so repeat yourself and be wrong is a way to -0.5. Unknown stays unknown.
    Raises ValueError unless limit >= 1 and `right` and `wrong` are two numbers each.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()  # 3, 2, 3 and 1 actions
    >>> answers = place_outcome(torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(cosine_length(answers, traj, limit=4), traj)[0]
    tensor([ 0.5732,  0.7500, -0.5732, -0.9268])
    """
    if limit < 1:
        raise ValueError(f"cosine_length: limit must be at least 1, got {limit}")
    if len(right) != 2 or len(wrong) != 2:
        raise ValueError(f"cosine_length: right and wrong are two numbers each, got {right} and {wrong}")
    value, valid = outcome(channel, traj)
    length = traj.mask.sum(1).double()
    near = (1 + torch.cos(math.pi * (length / limit).clamp(max=1))) / 2
    along = lambda ends: ends[1] + (ends[0] - ends[1]) * near
    paid = torch.where(value >= threshold, along(right), along(wrong))
    if at_limit is not None:
        paid = torch.where(length >= limit, at_limit, paid)
    return place_outcome(paid.to(value.dtype), valid, traj, channel.reasons)


@method("dler", kind="shaping", paper="arXiv:2510.15110", sees="group")
def truncate(
    channel: Channel,
    traj: Trajectories,
    *,
    limit: int = 4000,
    easy_limit: int | None = None,
    easy: float = 0.5,
    threshold: float = 0.5,
) -> Channel:
    """Let nothing count that was not finished within a number of actions: the plainest length penalty (DLER).

    r' = r where the policy finished with at most `limit` actions, else 0; no other term of length. In its difficulty-aware form
    (`easy_limit`, the paper's second phase: 2000) groups of which at least a share `easy` are right within `limit` have the
    shorter limit. That share is taken over the members whose outcome is known, before the shorter limit.

    The rest of DLER is elsewhere: `reinforce-plus-plus-baseline` for the advantage normalised over the batch, a clip range of
    0.2 and 0.28, the filter of groups that are all alike. Do not also mask truncated rollouts out of the loss: that takes the
    penalty away. Rewards must be such that 0 is the worst: a negative one is better cut off than finished.

    A rollout that was cut off is known to have 0, also where its grader said nothing; all else that is unknown stays unknown. Paid
    where it was paid. threshold: what outcome counts as right. Range: that of r, and 0. What it can be gamed by: guessing early.
    Raises ValueError unless 1 <= easy_limit <= limit and easy lies in 0..1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()  # 3, 2 | 3 and 1 actions
    >>> answers = place_outcome(torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> easy = truncate(answers, traj, limit=3, easy_limit=2, easy=0.6)
    >>> outcome(truncate(answers, traj, limit=2), traj)[0], outcome(easy, traj)[0]
    (tensor([0., 1., 0., 0.]), tensor([0., 1., 1., 0.]))
    """
    if not 1 <= (limit if easy_limit is None else easy_limit) <= limit:
        raise ValueError(f"truncate: 1 <= easy_limit <= limit must hold, got {easy_limit} and {limit}")
    if not 0 <= easy <= 1:
        raise ValueError(f"truncate: easy is a share, 0..1, got {easy}")
    length = traj.mask.sum(1)
    cut = (traj.stop == StopReason.truncated) | (length > limit)
    if easy_limit is not None:
        value, valid = outcome(channel, traj)
        right = ((value >= threshold) & ~cut).double()
        share = statistics(right, sets(traj, "group")[:, 0], valid | cut).mean
        cut = cut | ((share >= easy) & (length > easy_limit))
    dropped = cut[:, None]
    reasons = {id: why for id, why in channel.reasons.items() if id not in set(traj.id[cut].tolist())} if channel.reasons else {}
    return Channel(torch.where(channel.valid & ~dropped, channel.value, 0), channel.valid | dropped, reasons)


@method("grpo-lambda-length", kind="shaping", paper="arXiv:2505.18086", sees="batch")
def efficient_groups(
    channel: Channel, traj: Trajectories, *, share: float = 0.2, strength: float = 0.6, threshold: float = 0.5
) -> Channel:
    """Charge right answers for length, but only in the groups that are solved best (GRPO-lambda's selection).

    The ceil(share * groups) groups with the greatest share of right answers are asked to be short: there a right answer is paid
    r' = r (1 - strength sigmoid(z)), z = (L - mean L) / std L over the RIGHT members of its group (std over n). Wrong answers and
    all other groups keep what they have. Groups of equal accuracy: the one with the least id first. share is the paper's lambda,
    strength its alpha; both defaults are second-hand.

    Range for r = 1: (1 - strength, 1], so strength < 1 keeps every right answer above every wrong one. Lengths may be scaled or
    shifted as one likes. One right member, or all equally long: z = 0, hence 1 - strength / 2. share 0: nothing changes; share
    1: the plain penalty on everyone, which drives hard prompts to short guesses because z grows steeper as lengths agree.
    After `grpo` the size of strength means nothing in groups that are all right: only the order of lengths is left. Where a group
    has few right answers, z says little. Unknown outcomes count nowhere and stay unknown; the rest of a rollout's reward is paid
    at its end. Raises ValueError for a share outside 0..1 and a strength outside 0..1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()  # 3, 2 | 3 and 1 actions; the first group is solved better
    >>> answers = place_outcome(torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(efficient_groups(answers, traj, share=0.5), traj)[0]
    tensor([0.5614, 0.8386, 1.0000, 0.0000])
    """
    if not 0 <= share <= 1 or not 0 <= strength <= 1:
        raise ValueError(f"efficient_groups: share and strength must lie in 0..1, got {share} and {strength}")
    value, valid = outcome(channel, traj)
    right = valid & (value >= threshold)
    group = sets(traj, "group")[:, 0]
    asked = right & _best(right.double(), valid, group, sets(traj, "batch")[:, 0], traj.id, share)
    length = traj.mask.sum(1).double()
    among = statistics(length, group, right, ddof=0)
    z = (length - among.mean) / torch.where(among.std > 0, among.std, 1)
    kept = torch.where(asked, 1 - strength * torch.sigmoid(z), 1)
    return place_outcome(value * kept.to(value.dtype), valid, traj, channel.reasons)


def _best(
    right: Float[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    group: Int[Tensor, " N"],
    batch: Int[Tensor, " N"],
    id: Int[Tensor, " N"],
    share: float,
) -> Bool[Tensor, " N"]:
    """Whether each row's group is among the `share` of its batch's groups with the greatest accuracy."""
    accuracy = statistics(right, group, valid)
    names, of = group.unique(return_inverse=True)
    per_group = lambda x, fill, how: x.new_full((len(names),), fill).scatter_reduce(0, of, x, how, include_self=False)
    solved, judged = per_group(accuracy.mean, 0.0, "amax"), per_group(accuracy.count, 0.0, "amax") > 0
    of_batch, first = per_group(batch, 0, "amax"), per_group(id, 0, "amin")
    count = statistics(solved, of_batch, judged).count
    wanted = torch.ceil(share * count - 1e-9)  # 0.1 * 30 is a little more than 3
    return (judged & (rank(solved, of_batch, judged, first) < wanted))[of]
