"""A policy that builds objects action by action, with what balance losses read: flows, backward log-probabilities, log Z.

The objects come from a task that is a `Construction`. Nothing here knows a loss; as any policy it acts, resumes and evaluates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from payoff.catalogue import find, method
from payoff.pipeline import Evaluation, Start
from payoff.policies.building import Table, Walk, forward_only, masked_log_softmax, mlp, walk_direct, walk_listed
from payoff.policies.construction import Construction, StateGraph, uniform_backward
from payoff.trajectories import StopReason, Trajectories, fresh_ids

_LISTED = 4_000_000  # numbers in a table over all states, up to which a construction is enumerated


@method("gflownet", kind="policy", paper="arXiv:2106.04399")
class Gflownet(nn.Module):
    """A constructor: P_F(action | object so far) from a network over the task's features, illegal actions masked.

    task:        the construction: a task object, its name, or {name: ..., its options}
    network:     "mlp" (`layers` hidden layers of `hidden` units, ReLU, drawn by `seed`), or "table": one row of logits per state,
                 all 0 at first
    critic:      also a log-flow of every state, log F(s), offered as "values"; the flow of a finished object is 0 by convention:
                 what it is worth is a reward channel
    backward:    "uniform": P_B goes to every parent alike; "learned": P_B has logits of its own
    log_z:       "parameter": log F(empty object) is a number of its own that moves `log_z_rate` times as fast as the weights under
                 Adam (clipping the gradient's norm works against that); "flow": it is the critic's flow of the empty object
    exploration: share of actions drawn evenly from the legal ones. logp["old"] is that of the mixture that acted, logp["policy"]
                 that of P_F alone; a start with the field `explore: false`, as held-out ones have, is answered by P_F alone
    conditioned: a start names a wanted object, `goal: [...]` (a state), which the network sees; extras["goal"] is its number

    A rollout carries extras "states" [N, T+1, D], "log_reward" [N, T+1] (what the environment would pay for each state) and
    "log_backward" [N, T]. Offers "entropy", "log_backward" [N, T] and "log_z" [N]; with a stop action "stop_logp" [N, T+1]; with a
    critic "values" and "inflow" [N, T+1], the log of all flow into a state. A learned P_B comes with every evaluation.
    Raises ValueError for options out of range, a table or a condition over more states than can be listed.

    >>> from payoff.pipeline import Start
    >>> policy = Gflownet({"name": "hypergrid", "side": 3}, network="table")
    >>> traj = policy.rollout([Start("a", {})], 3, torch.Generator().manual_seed(0))
    >>> traj.items[1]["tokens"][-1], traj.extras["states"].shape == (3, traj.width + 1, 2)
    ('stop', True)
    """

    def __init__(
        self,
        task: Any,
        *,
        network: Literal["mlp", "table"] = "mlp",
        hidden: int = 256,
        layers: int = 2,
        critic: bool = False,
        backward: Literal["uniform", "learned"] = "uniform",
        log_z: Literal["parameter", "flow"] = "parameter",
        log_z_rate: float = 100.0,
        exploration: float = 0.0,
        conditioned: bool = False,
        seed: int = 0,
        dtype: Literal["float32", "float64"] = "float32",
    ) -> None:
        super().__init__()
        self.space: Construction = _construction(task)
        listed = self.space.state_count * self.space.actions <= _LISTED
        if not 0 <= exploration < 1:
            raise ValueError(f"Gflownet: exploration must lie in [0, 1), got {exploration}")
        if not log_z_rate > 0:
            raise ValueError(f"Gflownet: log_z_rate must be > 0, got {log_z_rate}")
        if log_z == "flow" and not critic:
            raise ValueError('Gflownet: log_z "flow" is the flow of the empty object, so it needs critic: true')
        if (network == "table" or conditioned) and not listed:
            raise ValueError(f"Gflownet: a table, and goals, need states that can be listed; there are {self.space.state_count}")
        self.learned, self.exploration, self.conditioned = backward == "learned", exploration, conditioned
        self.listed, self.log_z_rate = listed, log_z_rate
        sizes = {"forward": self.space.actions, "backward": self.space.actions * self.learned, "flow": int(critic)}
        kind = getattr(torch, dtype)
        goals = self.space.state_count if conditioned else 1
        if network == "table":
            self.net: nn.Module = Table(goals * self.space.state_count, sum(sizes.values()), kind)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.net = mlp(self.space.feature_count * (1 + conditioned), hidden, layers, sum(sizes.values())).to(kind)
        self._sizes = list(sizes.values())
        self.log_z = nn.Parameter(torch.zeros((), dtype=kind)) if log_z == "parameter" else None
        self.offers = frozenset(
            {"entropy", "log_backward", "log_z"}
            | ({"values", "inflow"} if critic else set())
            | ({"stop_logp"} if self.space.stop is not None else set())
        )

    @cached_property
    def graph(self) -> StateGraph:
        """Every state, enumerated; ValueError where there are too many."""
        return StateGraph(self.space)

    # --- as any policy

    def rollout(self, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n objects from every start; one group per start, rows in the order of the starts."""
        device = next(self.parameters()).device
        group = fresh_ids(len(starts), device).repeat_interleave(n)
        fields = [{**start.fields, "start": start.id} for start in starts for _ in range(n)]
        goals = self._goals(fields)
        walk = self._act(self.space.initial(len(fields)).to(device), goals, fields, rng, None, None)
        return self._recorded(walk, torch.ones_like(walk.actions, dtype=torch.bool), goals, group, fields)

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
        """n continuations of each prefix traj[rows, :at], with `parent` and `fork` set and the group of the trajectory they leave.

        `horizon` more actions (None: to the end; where that leaves an object unfinished it is "truncated"), the first `noisy` of
        them sampled (None: all), the rest the most probable ones, which exist and are not acted.
        Raises ValueError for a prefix at which the object was already finished, and for a horizon below 1.
        """
        if horizon is not None and horizon < 1:
            raise ValueError(f"Gflownet.resume: horizon must be at least 1, got {horizon}")
        rows, at = rows.repeat_interleave(n), at.repeat_interleave(n)
        prefix = traj.select(rows)
        open_end = prefix.length + (prefix.stop == StopReason.truncated).long()
        if bad := ((at < 0) | (at >= open_end)).nonzero().flatten().tolist():
            raise ValueError(
                f"Gflownet.resume: trajectory {int(prefix.id[bad[0]])}, of {int(prefix.length[bad[0]])} actions, "
                f"cannot be continued from action {int(at[bad[0]])}"
            )
        states = prefix.extras["states"].gather(1, at[:, None, None].expand(-1, 1, self.space.width))[:, 0]
        fields = [dict(item) for item in prefix.items] or [{} for _ in range(len(rows))]
        goals = self._goals(fields)
        walk = self._act(states, goals, fields, rng, horizon, noisy)
        own = torch.arange(walk.actions.shape[1], device=at.device)
        sampled = (own < (len(own) if noisy is None else noisy)).expand(walk.actions.shape)
        place = lambda old, new, extra=0: _spliced(old, new, at, int((at + walk.taken).max()) + extra)
        policy = prefix.logp.get("policy", prefix.logp["old"])
        whole = Walk(
            place(prefix.actions, walk.actions),
            place(policy, walk.policy),
            place(prefix.logp["old"], walk.acting),
            place(prefix.extras["states"], walk.states, 1),
            at + walk.taken,
            walk.ended,
        )
        branch = self._recorded(whole, place(prefix.mask, sampled), goals, prefix.group, fields)
        return branch.replace(parent=prefix.id, fork=at)

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        """Log-probabilities of the recorded actions under P_F, with gradient, and what else was wanted; 0 off the trajectory."""
        if unknown := want - self.offers:
            raise ValueError(f"Gflownet.evaluate: cannot give {sorted(unknown)}; it offers {sorted(self.offers)}")
        exists, k = traj.exists, self.space.actions
        visited = torch.arange(traj.width + 1, device=traj.device) <= traj.length[:, None]
        open_ = visited.clone()  # states that are no finished objects
        open_.scatter_(1, traj.length[:, None], (traj.stop == StopReason.truncated)[:, None])
        states, goals, place = self._distinct(traj, visited)
        raw = self._raw(states, goals)
        policy = masked_log_softmax(raw[0], self.space.legal(states))
        flow = self._flow(raw, states) if want & {"log_z", "values", "inflow"} else policy[:, 0]
        actions = torch.where(exists, traj.actions, 0).long()
        logp = torch.where(exists, policy.flatten()[place[:, :-1] * k + actions], 0)
        more = {}
        if "entropy" in want:
            finite = torch.where(policy > -torch.inf, policy, 0)  # a masked action adds nothing, and no NaN
            more["entropy"] = torch.where(exists, -(policy.exp() * finite).sum(1)[place[:, :-1]], 0)
        if self.learned:
            backward = masked_log_softmax(raw[1], self.space.parents(states)).flatten()[place[:, 1:] * k + actions]
            stops = torch.zeros_like(exists) if self.space.stop is None else actions == self.space.stop
            more["log_backward"] = torch.where(exists & ~stops, backward, 0)
        elif "log_backward" in want:
            reached = torch.where(visited[..., None], traj.extras["states"], 0)[:, 1:]
            more["log_backward"] = torch.where(exists, uniform_backward(self.space, reached, actions).to(logp.dtype), 0)
        if "log_z" in want:
            more["log_z"] = flow[place[:, 0]]
        if "values" in want:
            more["values"] = torch.where(open_, flow[place], 0)
        if "stop_logp" in want:
            more["stop_logp"] = torch.where(open_, policy[:, self.space.stop][place], 0)
        if "inflow" in want:
            into = torch.where(visited, self._inflow(states, goals)[place], 0)
            if self.space.stop is not None:  # a stopped object is entered by that one action alone
                stopped = exists & (actions == self.space.stop)
                into[:, 1:] = torch.where(stopped, flow[place[:, :-1]] + logp, into[:, 1:])
            more["inflow"] = torch.where(torch.arange(traj.width + 1, device=traj.device) > 0, into, 0)
        return Evaluation(logp, more)

    # --- everything, enumerated

    def record(self, actions: Int[Tensor, "N T"], length: Int[Tensor, " N"], start: Start | None = None) -> Trajectories:
        """Given sequences of legal actions, one object each, as one group with this policy's log-probabilities: stored data."""
        start = start or Start("given", {})
        now = self.space.initial(len(actions)).to(actions.device)
        trail = [now]
        for t in range(actions.shape[1]):
            reached = self.space.after(now, torch.where(t < length, actions[:, t], 0))
            now = torch.where((t < length)[:, None], reached, now)
            trail.append(now)
        last = actions.gather(1, length[:, None] - 1)[:, 0]
        over = self.space.complete(now) if self.space.stop is None else last == self.space.stop
        fields = [{**start.fields, "start": start.id}] * len(actions)
        nothing = torch.zeros(actions.shape, dtype=next(self.parameters()).dtype, device=actions.device)
        walk = Walk(actions, nothing, nothing, torch.stack(trail, 1), length, over)
        group = fresh_ids(1, length.device).expand(len(length))
        traj = self._recorded(walk, nothing == 0, self._goals(fields), group, fields)
        with torch.no_grad():
            logp = self.evaluate(traj).logp
        return traj.replace(logp={"old": logp, **({"policy": logp} if self.exploration else {})})

    def log_policy(self, goal: int = 0) -> Float[Tensor, "S K"]:
        """log P_F of every state; -inf for illegal actions."""
        return self._log_policy(*self._everywhere(goal))

    def log_flows(self, goal: int = 0) -> Float[Tensor, " S"]:
        """log F of every state, log Z at the empty object; 0 without a critic everywhere else."""
        states, goals = self._everywhere(goal)
        return self._flow(self._raw(states, goals), states)

    def object_distribution(self, goal: int = 0) -> Float[Tensor, " S"]:
        """The probability that an object built by P_F is each state (0 where that is none), exactly; differentiable."""
        return self.graph.object_distribution(self.log_policy(goal))

    # --- inside

    def _everywhere(self, goal: int) -> tuple[Int[Tensor, "S D"], Int[Tensor, " S"]]:
        states = self.graph.states.to(next(self.parameters()).device)
        return states, torch.full_like(states[:, 0], goal)

    def _act(
        self,
        states: Int[Tensor, "N D"],
        goals: Int[Tensor, " N"],
        fields: Sequence[Mapping[str, Any]],
        rng: torch.Generator,
        horizon: int | None,
        noisy: int | None,
    ) -> Walk:
        """Act from these states on."""
        n, kind, device = len(states), next(self.parameters()).dtype, states.device
        limit = min(self.space.longest, horizon or self.space.longest)
        shares = [self.exploration * bool(field.get("explore", True)) for field in fields]
        chance = torch.rand(n, limit, generator=rng, dtype=kind, device=rng.device).to(device)
        number = (goals.unique().numel() if self.conditioned else 1) * self.space.state_count
        known = self.listed and (isinstance(self.net, Table) or number <= n * self.space.longest // 2)
        rest = (states, goals, torch.tensor(shares, dtype=kind, device=device), chance, limit if noisy is None else noisy)
        with torch.no_grad():
            if known:
                return walk_listed(self.graph, self._log_policy, *rest)
            logits, space = forward_only(self.net, self._sizes[0]), self.space
            # where there is something to do, masking needs no guard against there being nothing
            ask = lambda some, goal: torch.where(space.legal(some), logits(self._seen(some, goal, kind)), -torch.inf).log_softmax(1)
            return walk_direct(space, ask, *rest)

    def _recorded(
        self,
        walk: Walk,
        mask: Bool[Tensor, "N T"],
        goals: Int[Tensor, " N"],
        group: Int[Tensor, " N"],
        fields: Sequence[Mapping[str, Any]],
    ) -> Trajectories:
        """What was built as trajectories, with what the environment says of every state."""
        width = int(walk.taken.max()) if len(walk.taken) else 1
        position = torch.arange(width, device=mask.device).expand(len(mask), width)
        exists = position < walk.taken[:, None]
        actions, states = torch.where(exists, walk.actions[:, :width], 0), walk.states[:, : width + 1]
        kind, space, numbers = walk.policy.dtype, self.space, walk.numbers
        if numbers is None:
            worth, backward = space.log_reward(states), uniform_backward(space, states[:, 1:], actions)
        else:
            numbers = numbers[:, : width + 1]
            worth = self.graph.log_rewards.to(mask.device)[numbers]
            backward = self.graph.log_uniform.to(mask.device).flatten()[numbers[:, :-1] * space.actions + actions]
        logps = {"old": walk.acting, **({"policy": walk.policy} if self.exploration else {})}
        traj = Trajectories(
            mask=mask[:, :width] & exists,
            length=walk.taken,
            group=group,
            step=torch.where(exists, position, -1).int(),
            stop=torch.where(walk.ended, int(StopReason.finished), int(StopReason.truncated)),
            actions=actions,
            logp={name: torch.where(exists, logp[:, :width], 0) for name, logp in logps.items()},
            items=self._items(actions, states, walk.taken, fields),
            extras={
                "states": states,
                "log_reward": worth.to(kind),
                "log_backward": torch.where(exists, backward.to(kind), 0),
                **({"goal": goals} if self.conditioned else {}),
            },
        )
        if self.learned:
            with torch.no_grad():
                traj = traj.replace(extras={"log_backward": self.evaluate(traj).more["log_backward"]})
        return traj

    def _items(self, actions: Tensor, states: Tensor, length: Tensor, fields: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        last = states[torch.arange(len(states), device=states.device), length].tolist()
        names = [self.space.action_name(a) for a in range(self.space.actions)]
        items = []
        for own, row, end, state in zip(fields, actions.tolist(), length.tolist(), last, strict=True):
            tokens = [names[a] for a in row[:end]]
            items.append({"prompt": "", **own, "response": self.space.written(state), "tokens": tokens, "steps": tokens})
            items[-1]["object"] = state
        return items

    def _goals(self, fields: Sequence[Mapping[str, Any]]) -> Int[Tensor, " N"]:
        """The number of each start's goal; 0 where the policy has none."""
        device = next(self.parameters()).device
        if not self.conditioned:
            return torch.zeros(len(fields), dtype=torch.int64, device=device)
        if lost := [field for field in fields if "goal" not in field]:
            raise ValueError(f"Gflownet: conditioned, and start {lost[0].get('start')!r} has no field 'goal'")
        return self.space.index(torch.tensor([field["goal"] for field in fields], device=device).view(-1, self.space.width))

    def _distinct(
        self, traj: Trajectories, visited: Bool[Tensor, "N T1"]
    ) -> tuple[Int[Tensor, "U D"], Int[Tensor, " U"], Int[Tensor, "N T1"]]:
        """The states to evaluate, their goals, and for every position which of them it is (0 off the trajectory)."""
        if self.listed and not self.conditioned and self.space.state_count <= traj.mask.numel():
            # all of them are hardly more than those that were visited, and need not be looked for
            everywhere, goals = self._everywhere(0)
            return everywhere, goals, torch.where(visited, self.space.index(traj.extras["states"]), 0)
        goals = traj.extras["goal"] if self.conditioned else torch.zeros_like(traj.length)
        of_row = goals[:, None].expand(visited.shape)
        states = traj.extras["states"][visited]
        place = torch.zeros(visited.shape, dtype=torch.int64, device=traj.device)
        if not self.listed:
            place[visited] = torch.arange(len(states), device=traj.device)
            return states, of_row[visited], place
        size = self.space.state_count
        key, which = (self.space.index(states) + size * of_row[visited]).unique(return_inverse=True)
        place[visited] = which
        return self.space.state(key % size), key // size, place

    def _raw(self, states: Int[Tensor, "U D"], goals: Int[Tensor, " U"]) -> list[Tensor]:
        """The network's forward logits, backward logits and log-flow (no columns where there are none) of these states."""
        space = self.space
        if isinstance(self.net, Table):
            return list(self.net(space.index(states) + space.state_count * goals).split(self._sizes, -1))
        return list(self.net(self._seen(states, goals, next(self.parameters()).dtype)).split(self._sizes, -1))

    def _seen(self, states: Int[Tensor, "U D"], goals: Int[Tensor, " U"], kind: torch.dtype) -> Float[Tensor, "U F"]:
        """What the network sees of these states, and of the goals."""
        seen = self.space.features(states)
        return (torch.cat([seen, self.space.features(self.space.state(goals))], -1) if self.conditioned else seen).to(kind)

    def _log_policy(self, states: Int[Tensor, "U D"], goals: Int[Tensor, " U"]) -> Float[Tensor, "U K"]:
        """log P_F over actions; even where nothing can be added."""
        return masked_log_softmax(self._raw(states, goals)[0], self.space.legal(states))

    def _flow(self, raw: Sequence[Tensor], states: Int[Tensor, "U D"]) -> Float[Tensor, " U"]:
        """log F, log Z at the empty object."""
        flow = raw[2][:, 0] if raw[2].shape[1] else raw[0].new_zeros(len(states))
        if self.log_z is None:
            return flow
        return torch.where(self.space.depth(states) == 0, self.log_z_rate * self.log_z, flow)

    def _inflow(self, states: Int[Tensor, "U D"], goals: Int[Tensor, " U"]) -> Float[Tensor, " U"]:
        """log of the sum of F(parent) P_F(state | parent); 0 for the empty object, which nothing leads to."""
        row, action = self.space.parents(states).nonzero(as_tuple=True)
        above = self.space.before(states[row], action)
        raw = self._raw(above, goals[row])
        policy = masked_log_softmax(raw[0], self.space.legal(above))
        edge = self._flow(raw, above) + policy.gather(1, action[:, None])[:, 0]
        table = edge.new_full((len(states), self.space.actions), -torch.inf).index_put((row, action), edge)
        some = torch.zeros(len(states), dtype=torch.bool, device=states.device).index_fill(0, row, True)
        return torch.where(some, torch.where(some[:, None], table, 0).logsumexp(1), 0)


def _spliced(old: Tensor, new: Tensor, at: Int[Tensor, " N"], width: int) -> Tensor:
    """[N, width, ...]: `old` before each row's position, `new` from there on; anything beyond both."""
    position = torch.arange(width, device=at.device).expand(len(at), width)
    later = (position - at[:, None]).clamp(0, new.shape[1] - 1)
    pick = lambda x, index: x.gather(1, index[(..., *[None] * (x.ndim - 2))].expand(*index.shape, *x.shape[2:]))
    before, after = pick(old, position.clamp(max=old.shape[1] - 1)), pick(new, later)
    given = (position < at[:, None])[(..., *[None] * (new.ndim - 2))]
    return torch.where(given, before.to(new.dtype), after)


def _construction(task: Any) -> Construction:
    """The task itself, or the one of this name with these options."""
    if isinstance(task, str | Mapping):
        options = {"name": task} if isinstance(task, str) else dict(task)
        task = find(options.pop("name"), "task")(**options)
    if not isinstance(task, Construction):
        raise ValueError(f"Gflownet: {type(task).__name__} is no task that says how objects are built (hypergrid and bits do)")
    return task
