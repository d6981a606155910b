"""How much of each role's data is trained on where one model asks, answers and checks (SPELL)."""

from __future__ import annotations

import math
from collections import Counter

import torch
from jaxtyping import Int
from torch import Tensor

from payoff.catalogue import method
from payoff.sets import sets, statistics
from payoff.trajectories import Rewards, Trajectories, outcome


@method("spell", kind="selection", paper="arXiv:2509.23863", sees="batch")
def balanced_roles(
    rewards: Rewards,
    traj: Trajectories,
    *,
    by: str = "played",
    role: str = "role",
    task: str = "task",
    verifier_share: float = 0.125,
) -> Int[Tensor, " M"]:
    """The rows of three roles that teach something, in numbers that no role rules (SPELL's choice of data).

    Questioners: of each task all good questions (reward above 0) and at most as many others: in bad form, not grounded, never or
    always solved. Responders and verifiers: whole groups of a role whose known rewards are not all equal; of the verifiers' such
    groups at most the share `verifier_share`, rounded up: with n verdicts on an answer there are n times as many of them, and 1 / n
    of them are as many as answers. Of several the least ids are kept. Rows of other roles, or of none, are all kept.

    by:         the channel that pays all three (`spell`); role, task: fields of the items
    A row without verdict is out, as a question, and otherwise stays with its group. Raises ValueError for a share outside 0..1 and
    rows without items, KeyError for a channel nobody gives.

    >>> from payoff.rows import from_rows
    >>> from payoff.trajectories import constant
    >>> roles = ["questioner"] * 3 + ["responder"] * 4
    >>> traj = from_rows([{"response": "", "role": one, "group": g} for one, g in zip(roles, [0, 1, 2, 3, 3, 4, 4])])
    >>> paid = constant(torch.tensor([1.0, -1.0, 0.0, 1.0, 0.0, 1.0, 1.0]), torch.ones(7, dtype=torch.bool))
    >>> balanced_roles({"played": paid}, traj)  # one good question and one other; of the answers those that differ
    tensor([0, 1, 3, 4])
    """
    if not 0 <= verifier_share <= 1:
        raise ValueError(f"balanced_roles: verifier_share must lie in 0..1, got {verifier_share}")
    if by not in rewards:
        raise KeyError(f"balanced_roles: no reward channel {by!r}; there are {sorted(rewards)}")
    if len(traj.items) != len(traj):
        raise ValueError(f"balanced_roles: rows must say their {role!r} in their items")
    score, known = outcome(rewards[by], traj)
    roles = [item.get(role) for item in traj.items]
    number = {name: k for k, name in enumerate(dict.fromkeys(map(str, roles)))}
    group = sets(traj, "group")[:, 0].long()
    of = (group - group.min() if len(traj) else group) * len(number) + torch.tensor(
        [number[str(one)] for one in roles], device=traj.device
    )
    varied = (~statistics(score, of, known).equal).tolist()
    paid, sure, of_row = score.tolist(), known.tolist(), of.tolist()
    order = traj.id.argsort().tolist()
    checked = list(dict.fromkeys(of_row[row] for row in order if roles[row] == "verifier" and varied[row]))
    verifiers = set(checked[: math.ceil(len(checked) * verifier_share - 1e-9)])
    good = Counter(str(traj.items[row].get(task)) for row in order if roles[row] == "questioner" and sure[row] and paid[row] > 0)
    others: Counter[str] = Counter()
    kept = torch.zeros(len(traj), dtype=torch.bool, device=traj.device)
    for row in order:
        if roles[row] == "questioner":
            name = str(traj.items[row].get(task))
            kept[row] = sure[row] and (paid[row] > 0 or others[name] < good[name])
            others[name] += sure[row] and paid[row] <= 0
        elif roles[row] == "verifier":
            kept[row] = of_row[row] in verifiers
        else:
            kept[row] = roles[row] != "responder" or varied[row]
    return kept.nonzero()[:, 0]
