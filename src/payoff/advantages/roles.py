"""Several roles in one batch, played by one model: who is compared with whom (SPELL)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from payoff.catalogue import method
from payoff.sets import sets, statistics
from payoff.trajectories import Channel, Trajectories, at_start


@method("spell", kind="advantage", paper="arXiv:2509.23863", sees="batch")
def role_wise(
    channel: Channel,
    traj: Trajectories,
    *,
    role: str = "role",
    task: str = "task",
    over_batch: Sequence[str] = ("questioner",),
    ddof: int = 1,
    eps: float = 1e-6,
) -> Channel:
    """Compare every rollout with those of its own role: A = (C - mean) / (std + eps) (SPELL's role-wise advantages).

    Questioners are compared with all questioners of their task in the batch, since each question is asked once; responders and
    verifiers with their group, the answers to one question and the verdicts on one answer, and there too only with their own role.
    No role enters another's mean. C is the rollout's credit at its first action; the path is [`total`, `spell`], for the reward
    `spell`.

    role, task: fields of the items; rows without a role are one more role, compared in their groups, and those without a task
                one more task
    over_batch: the roles that are compared over the batch
    One rollout alone, and equal numbers, get exactly 0. What is unknown takes part in no mean and stays unknown.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()  # groups 0, 0, 1, 1
    >>> items = [{"role": name} for name in ("questioner", "responder", "questioner", "responder")]
    >>> reward = Channel(torch.tensor([[1.0], [0.5], [-1.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> role_wise(reward, traj.replace(items=items), ddof=0, eps=0.0).value.T
    tensor([[ 1.,  0., -1.,  0.]])
    """
    number, known = at_start(channel, traj)
    key = sets(traj, "group")[:, 0]
    if traj.items or "" in over_batch:
        items = traj.items or [{}] * len(traj)
        named = [(str(item.get(role, "")), str(item.get(task, ""))) for item in items]
        roles, tasks = (dict(zip(dict.fromkeys(part), itertools.count())) for part in ([who for who, _ in named], named))
        of = lambda numbers: torch.tensor(numbers, dtype=torch.int64, device=traj.device)
        wide = of([who in over_batch for who, _ in named]).bool()
        batch = sets(traj, "batch")[:, 0].long()
        batch, group = batch - batch.min(), key.long() - key.min()
        # Numbers from 0 up for a role in a group, below 0 for a role and task in a batch.
        within, across = (group * len(roles) + of([roles[who] for who, _ in named])), of([tasks[one] for one in named])
        key = torch.where(wide, -1 - batch * len(tasks) - across, within)
    stats = statistics(number, key, known, ddof=ddof)
    value = (number.double() - stats.mean) / torch.where(stats.std > 0, stats.std + eps, 1)
    value = torch.where(known & (stats.std > 0), value, 0).to(channel.value.dtype)
    return Channel(value[:, None], known[:, None], channel.reasons)
