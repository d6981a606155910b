"""A score for what a draft can be made into: a tree of repairs scored from its leaves (VeriRL's trace-back rescoring)."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories, outcome, place_outcome


@method("trace-back", kind="shaping", paper="arXiv:2508.18462", sees="group")
def trace_back(channel: Channel, traj: Trajectories, *, draft: str = "draft", revises: str = "revises") -> Channel:
    """Replace the score of every rollout that was revised by the mean of its revisions' scores, from the last ones up (TbR).

    s'_i = mean over the children j of i of s'_j, and s'_i = s_i where there are none. An item's field `draft` is its name within
    its group, and `revises` the name of the draft it was made from (None, or no such field: a first draft). Meant for pass rates,
    before pairs are made of them (`verirl-pairs`): a draft is worth what it becomes, not what it is.

    Range that of the scores. A mean can lower a draft that nearly passed, where its revisions broke it. Gamed by what makes
    revising easy: drafts that repeat the task. A child without verdict does not count; a rollout whose children all have none
    keeps its own. A name that no rollout of the group has, or that several have, and a ring: no verdict for the revision.
    Paid at the end. Cost: one pass per level of the tree.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers().replace(group=torch.zeros(4, dtype=torch.int64))
    >>> traj = traj.replace(items=[{"draft": "a"}, {"revises": "a"}, {"draft": "b", "revises": "a"}, {"revises": "b"}])
    >>> passing = place_outcome(torch.tensor([0.0, 0.5, 0.25, 1.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> trace_back(passing, traj).value.sum(1)
    tensor([0.7500, 0.5000, 1.0000, 1.0000])
    """
    score, known = outcome(channel, traj)
    above, faults = _parents(traj, draft, revises)
    depth = _depths(above)
    if rings := [int(i) for i in traj.id[depth < 0].tolist()]:
        faults |= dict.fromkeys(rings, "its drafts and revisions go round in a ring")
    lost = torch.tensor([id in faults for id in traj.id.tolist()], dtype=torch.bool, device=score.device)
    value, sure = score.double(), known & ~lost
    total, count = torch.zeros_like(value), torch.zeros_like(value)
    for level in range(int(depth.max()) if len(traj) else 0, 0, -1):
        rows = ((depth == level) & sure).nonzero()[:, 0]
        total.index_add_(0, above[rows], value[rows])
        count.index_add_(0, above[rows], torch.ones_like(value[rows]))
        revised = (depth == level - 1) & (count > 0)
        value = torch.where(revised, total / count.clamp(min=1), value)
        sure = sure | (revised & ~lost)
    reasons = {**channel.reasons, **faults}
    unknown = set(traj.id[~sure].tolist())
    reasons = {id: why for id, why in reasons.items() if id in unknown}
    return place_outcome(torch.where(sure, value, 0).to(channel.value.dtype), sure, traj, reasons)


def _parents(traj: Trajectories, draft: str, revises: str) -> tuple[Int[Tensor, " N"], dict[int, str]]:
    """The row of every rollout's draft, -1 for none, and what is wrong with those that name one that cannot be."""
    items, groups = traj.items or [{}] * len(traj), traj.group.tolist()
    rows_of: dict[tuple[int, str], list[int]] = {}
    for row, item in enumerate(items):
        if item.get(draft) is not None:
            rows_of.setdefault((groups[row], str(item[draft])), []).append(row)
    above, faults = [], {}
    for row, (item, id) in enumerate(zip(items, traj.id.tolist(), strict=True)):
        named = item.get(revises)
        found = [] if named is None else rows_of.get((groups[row], str(named)), [])
        if named is not None and len(found) != 1:
            faults[id] = f"{len(found) or 'no'} rollouts of its group are called {str(named)[:40]!r}, which it revises"
        above.append(found[0] if len(found) == 1 else -1)
    return torch.tensor(above, dtype=torch.int64, device=traj.device), faults


def _depths(above: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """How far every row is below a first draft; -1 in a ring and below one."""
    depth, at = torch.zeros_like(above), above.clone()
    for _ in range(len(above)):
        depth, at = depth + (at >= 0), torch.where(at >= 0, above[at.clamp(min=0)], -1)
        if bool((at < 0).all()):
            break
    return torch.where(at >= 0, -1, depth)
