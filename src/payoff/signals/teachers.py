"""What teachers of single domains think of every action of the policy: distillation on the policy's own rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from payoff.catalogue import method
from payoff.trajectories import Channel, Rewards, Trajectories, log_ratio


@method("m2rl", kind="signal", paper="arXiv:2602.12566", needs=("old",))
class DomainTeachers(nn.Module):
    """Pay every own action log pi_d(a_t) - log pi_old(a_t), d the teacher of the row's domain (multi-teacher distillation, M2RL).

    teachers: policies by domain, specialists of it; this never trains them
    domain:   the field of the rows that names it

    Channel "m2rl". Its sum over a rollout has the mean -KL(pi || pi_d), so maximising it makes the policy the teacher of each
    domain, on what the policy itself writes; as an advantage it is used as it is, down [`immediate`] for the paper's, which leaves
    the effect on later tokens out, or [`return-to-go`] for the gradient of the divergence. The rival is merging the teachers'
    weights: `merged` of payoff.search.merging.

    0 where the policy did not act. Detached. Cost: one pass of each teacher over its rows. Gamed by nothing: 0 in the mean only
    where the two agree. No verdict for a row whose domain has no teacher. Raises ValueError without teachers or items.

    >>> from payoff.examples import four_answers
    >>> class Sure:
    ...     def evaluate(self, traj):
    ...         from payoff.pipeline import Evaluation
    ...         return Evaluation(traj.logp["old"] + 0.5, {})
    >>> traj = four_answers()
    >>> traj = traj.replace(items=[{**item, "domain": "sums" if k < 2 else "maps"} for k, item in enumerate(traj.items)])
    >>> paid = DomainTeachers(teachers={"sums": Sure()})(traj)["m2rl"]
    >>> paid.value[0], paid.valid[:, 0]
    (tensor([0.5000, 0.5000, 0.5000]), tensor([ True,  True, False, False]))
    """

    def __init__(self, *, teachers: Mapping[str, Any], domain: str = "domain") -> None:
        super().__init__()
        if not teachers:
            raise ValueError("m2rl: no teachers")
        self.teachers, self.domain = dict(teachers), domain

    @torch.no_grad()
    def forward(self, traj: Trajectories) -> Rewards:
        """The payments of these rows."""
        if len(traj.items) != len(traj):
            raise ValueError("m2rl: these trajectories have no items, so their domains are not known")
        if "old" not in traj.logp:
            raise ValueError('m2rl: needs traj.logp["old"]')
        named = [item.get(self.domain) for item in traj.items]
        value = torch.zeros_like(traj.logp["old"])
        known = torch.zeros(len(traj), 1, dtype=torch.bool, device=traj.device)
        for domain, teacher in self.teachers.items():
            rows = torch.tensor([row for row, name in enumerate(named) if name == domain], dtype=torch.int64, device=traj.device)
            if len(rows):
                some = traj.select(rows)
                value[rows] = log_ratio(teacher.evaluate(some).logp.detach(), some.logp["old"], some).to(value.dtype)
                known[rows] = True
        ids = traj.id.tolist()
        reasons = {ids[row]: f"no teacher of the domain {name!r}" for row, name in enumerate(named) if name not in self.teachers}
        return {"m2rl": Channel(value, known, reasons)}
