"""Several roles in one batch, played by one model: who is compared with whom (SPELL)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from operator import itemgetter

import torch
from jaxtyping import Int
from torch import Tensor

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
    items = traj.items or [{}] * len(traj)
    named = [(str(item.get(role, "")), str(item.get(task, ""))) for item in items]
    who, what = _numbered(map(itemgetter(0), named), traj), _numbered(named, traj)
    wide = torch.tensor([one[0] in over_batch for one in named], dtype=torch.bool, device=traj.device)
    # Of two parts each: which batch and what for those over the batch, which group and who for the others.
    parts = torch.where(
        wide[:, None], torch.stack([sets(traj, "batch")[:, 0], what], 1), torch.stack([sets(traj, "group")[:, 0], who], 1)
    )
    key = torch.cat([wide[:, None].long(), parts], 1).unique(dim=0, return_inverse=True)[1]
    stats = statistics(number, key, known, ddof=ddof)
    value = (number.double() - stats.mean) / torch.where(stats.std > 0, stats.std + eps, 1)
    value = torch.where(known & (stats.std > 0), value, 0).to(channel.value.dtype)
    return Channel(value[:, None], known[:, None], channel.reasons)


def _numbered(names: Iterable[Hashable], traj: Trajectories) -> Int[Tensor, " N"]:
    """A number for each name, the same for equal ones."""
    numbers: dict[Hashable, int] = {}
    given = [numbers.setdefault(name, len(numbers)) for name in names]
    return torch.tensor(given, dtype=torch.int64, device=traj.device)
