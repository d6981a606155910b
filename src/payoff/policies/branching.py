"""A policy that chooses branching variables: a graph network over a node, and a memory of the nodes before it (ReviBranch)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.pipeline import Evaluation, Start
from payoff.trajectories import StopReason, Trajectories, fresh_ids

_OFFERS = frozenset({"entropy", "mean_logp", "logits", "values"})
_WAVES = 8  # numbers that say which branching it is


@method("branching", kind="policy", paper="arXiv:2508.17452")
class BranchingPolicy(nn.Module):
    """Choose where to branch by the node's graph and by the path of nodes before it, revived from stored graphs (ReviBranch).

    V_i: embeddings of the variables of node i after one exchange with the constraints and back; a step's representation is the mean
    of V_i, the embedding of the variable that was chosen, and which branching it is; a recurrent module runs over these, and what
    it holds before step i is decoded with every candidate's embedding: logits over candidates, and a value. A trajectory stores
    the graph of each node alone; `evaluate` builds the path anew from all of them, with gradient through the whole of it.

    width: of the embeddings and of the memory; memory False: each node by itself

    Starts must carry an instance (`branching` task). Rollouts are searches in the order the solver makes them, an action per
    branching, each a step: extras "variables" [N, T, n, 8], "constraints" [N, T, m, 3], "bound_gain" [N, T], and
    "environment_reward" [N, T], minus the nodes of the whole search at its end; items with `nodes`, `proven` and `objective`. A
    search that ends at its root has one position at which nothing is acted; one that reaches its limit of nodes is truncated.
    Offers "entropy", "mean_logp", "logits" over all variables (those that are no candidates at -1e9) and "values" [N, T+1].
    Raises ValueError for width < 1, and starts without an instance.

    >>> sorted(BranchingPolicy(width=4).offers)
    ['entropy', 'logits', 'mean_logp', 'values']
    """

    def __init__(self, *, width: int = 16, memory: bool = True, seed: int = 0) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"branching: width must be at least 1, got {width}")
        self.offers, self.width, self.memory = _OFFERS, width, memory
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.variable, self.constraint = nn.Linear(8, width), nn.Linear(3, width)
            self.to_constraint, self.to_variable = nn.Linear(width, width), nn.Linear(2 * width, width)
            self.build, self.carry = nn.Linear(2 * width + _WAVES, width), nn.GRUCell(width, width)
            self.mix, self.read, self.worth = nn.Linear(2 * width, width), nn.Linear(width, 1), nn.Linear(2 * width, 1)
        for layer in (self.read, self.worth):  # every candidate as likely as any other, and no value, at first
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def rollout(self, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n searches of every start's instance, one after the other; one group per start."""
        items = []
        for start in starts:
            if not hasattr(start.environment, "solve"):
                raise ValueError(f"branching: start {start.id!r} carries no instance to solve; the task must be `branching`")
            items += [{**start.fields, "start": start.id, "environment": start.environment}] * n
        group = fresh_ids(len(starts)).repeat_interleave(n)
        return self._searched(items, [()] * len(items), rng, [None] * len(items)).replace(group=group)

    def resume(
        self,
        traj: Trajectories,
        rows: Int[Tensor, " R"],
        at: Int[Tensor, " R"],
        n: int,
        rng: torch.Generator,
        *,
        horizon: int | None = None,
        noisy: int | None = None,
    ) -> Trajectories:
        """n continuations of each prefix: the same instance, the same branchings, then new ones; `noisy` more are drawn at random.

        Raises ValueError for a prefix beyond the last branching, and for a horizon: a search cannot be stopped between two nodes.
        """
        if horizon is not None:
            raise ValueError("branching: a search cannot be cut short; resume without a horizon")
        rows, at = rows.repeat_interleave(n), at.repeat_interleave(n)
        prefix = traj.select(rows)
        acted = prefix.mask.sum(1)
        late = ((at < 0) | (at >= acted)).nonzero()
        if len(late):
            row = int(late[0, 0])
            raise ValueError(
                f"branching: trajectory {int(prefix.id[row])} made {int(acted[row])} branchings, none at {int(at[row])}"
            )
        done = [tuple(prefix.actions[k, :end].tolist()) for k, end in enumerate(at.tolist())]
        drawn = [None if noisy is None else end + noisy for end in at.tolist()]
        branch = self._searched(list(prefix.items), done, rng, drawn)
        return branch.replace(group=prefix.group, parent=prefix.id, fork=at)

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        """Log-probabilities of the recorded branchings, with gradient, and what else was wanted; 0 where none was made."""
        if unknown := want - self.offers:
            raise ValueError(f"branching: cannot give {sorted(unknown)}; it offers {sorted(self.offers)}")
        acted = traj.mask
        shown = lambda name: torch.where(acted[..., None, None], traj.extras[name].to(self.read.weight), 0)
        variables, constraints = shown("variables"), shown("constraints")
        # where nothing was acted any candidate will do, so that no row of logits is without one
        candidate = (variables[..., 3] > 0) | ~acted[..., None]
        embedded = self._embedded(variables, constraints, self._edges(traj)[:, None])
        actions = torch.where(acted, traj.actions, 0).long()
        held = embedded.new_zeros(len(traj), self.width)
        logits, values = [], []
        for t in range(traj.width):
            row, value = self._decoded(embedded[:, t], held, candidate[:, t])
            logits.append(row)
            values.append(value)
            if self.memory:
                place = torch.full_like(actions[:, t], t)
                held = torch.where(acted[:, t, None], self._carried(embedded[:, t], actions[:, t], place, held), held)
        all_logits = torch.stack(logits, 1)
        rows = all_logits.log_softmax(-1)
        logp = torch.where(acted, rows.gather(2, actions[..., None])[..., 0], 0)
        more: dict[str, Tensor] = {}
        if "entropy" in want:
            more["entropy"] = torch.where(acted, -(rows.exp() * rows).sum(-1), 0)
        if "mean_logp" in want:
            count = candidate.sum(-1).clamp(min=1)
            more["mean_logp"] = torch.where(acted, torch.where(candidate, rows, 0).sum(-1) / count, 0)
        if "logits" in want:
            more["logits"] = torch.where(acted[..., None], all_logits, 0)
        if "values" in want:
            value = torch.where(acted, torch.stack(values, 1), 0)
            more["values"] = torch.cat([value, torch.zeros_like(value[:, :1])], 1)
        return Evaluation(logp, more)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.read.weight.device

    # --- the network

    def _embedded(
        self, variables: Float[Tensor, "*B n 8"], constraints: Float[Tensor, "*B m 3"], edges: Float[Tensor, "*C m n"]
    ) -> Float[Tensor, "*B n W"]:
        """V: variables after they told the constraints, and these told them back."""
        x, c = self.variable(variables).relu(), self.constraint(constraints).relu()
        c = (c + self.to_constraint(edges @ x) / edges.shape[-1] ** 0.5).relu()
        back = edges.transpose(-1, -2) @ c / edges.shape[-2] ** 0.5
        return self.to_variable(torch.cat([x, back], -1)).relu() + x

    def _decoded(
        self, embedded: Float[Tensor, "N n W"], held: Float[Tensor, "N W"], candidate: Bool[Tensor, "N n"]
    ) -> tuple[Float[Tensor, "N n"], Float[Tensor, " N"]]:
        """Logits of the candidates, and the value of the node, of what is held of the path."""
        both = torch.cat([embedded, held[:, None].expand(-1, embedded.shape[1], -1)], -1)
        logits = self.read(self.mix(both).relu())[..., 0]
        value = self.worth(torch.cat([embedded.mean(1), held], -1))[:, 0]
        return logits.masked_fill(~candidate, -1e9), value

    def _carried(
        self, embedded: Float[Tensor, "N n W"], chosen: Int[Tensor, " N"], place: Int[Tensor, " N"], held: Float[Tensor, "N W"]
    ) -> Float[Tensor, "N W"]:
        """What is held after this step."""
        rate = torch.exp(torch.arange(_WAVES // 2, device=held.device) * (-2 * math.log(100.0) / _WAVES))
        angle = place[:, None] * rate
        own = embedded.gather(1, chosen[:, None, None].expand(-1, 1, embedded.shape[2]))[:, 0]
        step = self.build(torch.cat([embedded.mean(1), own, angle.sin(), angle.cos()], -1)).relu()
        return self.carry(step, held)

    # --- searches

    @torch.no_grad()
    def _searched(
        self, items: Sequence[Mapping[str, Any]], done: Sequence[Sequence[int]], rng: torch.Generator, drawn: Sequence[int | None]
    ) -> Trajectories:
        """Solve every item's instance, repeating what is done and choosing after it; at random up to the `drawn`-th branching."""
        found, chances, logps = [], [], []
        for item, before, most in zip(items, done, drawn, strict=True):
            instance = item["environment"]
            edges = torch.from_numpy(instance.edges).to(self.read.weight)
            path = {"held": edges.new_zeros(1, self.width), "t": 0}
            logp: list[float] = []
            chance: list[bool] = []

            def choose(
                node: Any,
                candidates: list[int],
                edges: Tensor = edges,
                path: dict[str, Any] = path,
                logp: list[float] = logp,
                chance: list[bool] = chance,
                before: Sequence[int] = before,
                most: int | None = most,
            ) -> int:
                t = path["t"]
                variables, constraints = (torch.from_numpy(x).to(edges)[None] for x in (node.variables, node.constraints))
                embedded = self._embedded(variables, constraints, edges[None])
                allowed = torch.zeros(1, embedded.shape[1], dtype=torch.bool, device=edges.device)
                allowed[0, candidates] = True
                rows = self._decoded(embedded, path["held"], allowed)[0].log_softmax(-1)
                random = most is None or t < most
                if t < len(before):
                    action = before[t]
                elif random:
                    action = int(torch.multinomial(rows[0].exp().to(rng.device), 1, generator=rng))
                else:
                    action = int(rows[0].argmax())
                logp.append(float(rows[0, action]))
                chance.append(t < len(before) or random)
                if self.memory:
                    at = torch.tensor([action], device=edges.device), torch.tensor([t], device=edges.device)
                    path["held"] = self._carried(embedded, *at, path["held"])
                path["t"] = t + 1
                return action

            found.append(instance.solve(choose))
            chances.append(chance)
            logps.append(logp)
        return self._recorded(items, found, chances, logps)

    def _recorded(
        self, items: Sequence[Mapping[str, Any]], found: Sequence[Any], chances: list[list[bool]], logps: list[list[float]]
    ) -> Trajectories:
        n, length = len(found), torch.tensor([max(len(search.steps), 1) for search in found])
        width = int(length.max()) if n else 1
        shape = items[0]["environment"].edges.shape if n else (1, 1)
        variables, constraints = np.zeros((n, width, shape[1], 8), np.float32), np.zeros((n, width, shape[0], 3), np.float32)
        grids = {name: torch.zeros(n, width) for name in ("logp", "gain", "paid")}
        mask, actions = torch.zeros(n, width, dtype=torch.bool), torch.zeros(n, width, dtype=torch.int64)
        for row, search in enumerate(found):
            for t, (node, action) in enumerate(search.steps):
                variables[row, t], constraints[row, t], actions[row, t] = node.variables, node.constraints, action
            end = len(search.steps)
            mask[row, :end] = torch.tensor(chances[row], dtype=torch.bool)
            grids["logp"][row, :end] = torch.tensor(logps[row])
            grids["gain"][row, :end] = torch.tensor(search.gains)
            grids["paid"][row, max(end, 1) - 1] = -float(search.nodes)
        exists = torch.arange(width) < length[:, None]
        told = [{"nodes": search.nodes, "proven": search.proven, "objective": search.objective} for search in found]
        text = [{"response": f"{search.nodes} nodes", "steps": [f"x{a}" for _, a in search.steps] or [""]} for search in found]
        stop = [int(StopReason.finished if search.proven else StopReason.truncated) for search in found]
        traj = Trajectories(
            mask=mask,
            length=length,
            group=torch.zeros(n, dtype=torch.int64),
            step=torch.where(exists, torch.arange(width), -1).int(),
            stop=torch.tensor(stop, dtype=torch.int64),
            actions=actions,
            logp={"old": torch.where(mask, grids["logp"], 0)},
            items=[{**item, **a, **b, "tokens": b["steps"]} for item, a, b in zip(items, told, text, strict=True)],
            extras={
                "variables": torch.from_numpy(variables),
                "constraints": torch.from_numpy(constraints),
                "bound_gain": grids["gain"],
                "environment_reward": grids["paid"],
            },
        )
        return traj.to(self.device)

    def _edges(self, traj: Trajectories) -> Float[Tensor, "N m n"]:
        made: dict[int, Tensor] = {}
        for item in traj.items:
            if "environment" not in item:
                raise ValueError("branching: these trajectories carry no instances")
            instance = item["environment"]
            if id(instance) not in made:
                made[id(instance)] = torch.from_numpy(instance.edges).to(self.read.weight)
        return torch.stack([made[id(item["environment"])] for item in traj.items])
