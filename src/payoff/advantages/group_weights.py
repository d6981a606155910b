"""Advantages whose groups are weighed: ADORA by how long right and wrong answers are, GPG by how many groups say anything."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.advantages.actions import row_counts
from payoff.advantages.group import grpo, mean_baseline
from payoff.advantages.normalise import Convention
from payoff.catalogue import method
from payoff.sets import sets, statistics
from payoff.trajectories import Channel, StopReason, Trajectories, at_start

Rule = Literal["text", "vision"]
CONVENTIONS = ("paper", "verl")  # of GPG


@method("adora", kind="advantage", paper="arXiv:2602.10019", sees="group")
def adora(
    channel: Channel,
    traj: Trajectories,
    *,
    weight: float = 0.1,
    threshold: float = 0.5,
    rule: Rule = "text",
    grpo_convention: str | Convention = "verl",
) -> Channel:
    """Weigh down the groups in which being right does not take longer than being wrong (ADORA).

    A = w_group GRPO(C), w = 1 where the group is to learn from now and `weight` where it is not. Right is a rollout with a credit
    above `threshold`, wrong any other that was not cut off (stop "truncated"); a rollout's length is its number of own actions.

    rule: when w = 1, as the two released programs say:
          "text":   the longest right answer is longer than the mean wrong one; nothing right: no; nothing wrong: yes
          "vision": as text where there are both; nothing right: yes; nothing wrong: no
    grpo_convention: `convention` of the GRPO advantage that is weighed; both programs have verl's

    weight 1 is GRPO. The weight is that of the whole group, so a sum of zero stays zero; it depends on the very rollouts it weighs,
    and so turns the gradient (docs/estimators.md), towards long right answers: it is a prior on length and meant as one.
    Groups of equal credits get exactly 0. Rollouts that are unknown take no part.
    Raises ValueError for a negative weight and an unknown rule.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.0], [1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> adora(credit, four_answers(), grpo_convention="paper").value.T  # the second group's right answer is the shorter one
    tensor([[ 1.0000, -1.0000, -0.1000,  0.1000]])
    """
    if weight < 0:
        raise ValueError(f"adora: weight must be >= 0, got {weight}")
    if rule not in get_args(Rule):
        raise ValueError(f"adora: rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
    advantage = grpo(channel, traj, convention=grpo_convention)
    credit, known = at_start(channel, traj)
    group, length = sets(traj, "group")[:, 0], row_counts(traj.own).double()
    right = statistics(length, group, known & (credit > threshold))
    wrong = statistics(length, group, known & (credit <= threshold) & (traj.stop != StopReason.truncated))
    both = (right.count > 0) & (wrong.count > 0)
    alone = right.count > 0 if rule == "text" else right.count == 0
    learn = torch.where(both, right.high > wrong.mean, alone)
    return _weighed(advantage, torch.where(learn, 1, torch.full_like(length, weight)))


@method("gpg", kind="advantage", paper="arXiv:2504.02546", sees="batch")
def gpg(channel: Channel, traj: Trajectories, *, convention: Literal["paper", "verl"] = "paper") -> Channel:
    """Compare a rollout with the mean of its group, scaled up by the share of the batch that says anything (GPG).

    A = alpha (C - mean_group C), alpha = known rollouts of the batch / those whose group is not all equal: the average over a batch
    is not diluted by groups that teach nothing. One number for the whole batch: the gradient of a batch keeps its direction.

    convention: "verl" counts the rollouts with a credit that is not 0 instead, and a group of one keeps its credit, as there.
    Equal credits get exactly 0; so does a batch without any difference. Raises ValueError for an unknown convention.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [1.0], [1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> gpg(credit, four_answers()).value.T
    tensor([[ 1., -1.,  0.,  0.]])
    >>> gpg(credit, four_answers(), convention="verl").value.T
    tensor([[ 0.6667, -0.6667,  0.0000,  0.0000]])
    """
    if convention not in CONVENTIONS:
        raise ValueError(f'gpg: convention must be "paper" or "verl", got {convention!r}')
    credit, known = at_start(channel, traj)
    if convention == "verl":
        advantage = grpo(channel, traj, convention=Convention(scale="none", single="raw"))
        speaks = credit != 0
    else:
        advantage = mean_baseline(channel, traj)
        speaks = ~statistics(credit, sets(traj, "group")[:, 0], known).equal
    share = statistics(speaks.double(), sets(traj, "batch")[:, 0], known).mean
    return _weighed(advantage, torch.where(share > 0, 1 / share.clamp(min=1e-12), 1))


def _weighed(advantage: Channel, weight: Float[Tensor, " N"]) -> Channel:
    return advantage._replace(value=advantage.value * weight[:, None].to(advantage.value.dtype))
