"""Taking step after step on many unfinished objects at once, and the small networks that are asked about them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from payoff.policies.construction import Construction, StateGraph

Ask = Callable[[Tensor, Tensor], Tensor]  # (states, goals) -> log-probabilities of all actions


class Walk(NamedTuple):
    """Steps from where each object stood: T of them, 0 beyond `taken`.

    policy, acting: log-probability of each action under P_F, and under what acted
    states:         [N, T+1, D] before each step, and after the last
    taken, ended:   how many steps, and whether the last one finished the object
    numbers:        [N, T+1] those of the states, where they are listed
    """

    actions: Int[Tensor, "N T"]
    policy: Float[Tensor, "N T"]
    acting: Float[Tensor, "N T"]
    states: Int[Tensor, "N T1 D"]
    taken: Int[Tensor, " N"]
    ended: Bool[Tensor, " N"]
    numbers: Int[Tensor, "N T1"] | None = None


def walk_listed(
    graph: StateGraph,
    ask: Ask,
    states: Int[Tensor, "N D"],
    goals: Int[Tensor, " N"],
    rate: Float[Tensor, " N"],
    chance: Float[Tensor, "N T"],
    noisy: int,
) -> Walk:
    """Walk where there are few states: the network is asked once about each of them, and a step is three look-ups.

    rate: exploration of each row; chance: uniform numbers, which decide the first `noisy` steps; later ones are the most probable.
    """
    size, k, device = graph.space.state_count, graph.space.actions, states.device
    alike = not len(states) or bool(((goals == goals[0]) & (rate == rate[0])).all())
    if alike:
        kinds = [(int(goals[0]), rate[0])] if len(states) else []
        offset = np.zeros(len(states), dtype=np.int64)
    else:
        found, kind = torch.stack([goals.to(rate.dtype), rate], 1).unique(dim=0, return_inverse=True)
        kinds = [(int(goal), share) for goal, share in found]
        offset = (kind * (2 * size)).cpu().numpy()
    every = graph.states.to(device)
    asked = [ask(every, torch.full_like(every[:, 0], goal)) for goal, _ in kinds]
    mixed = [explored(own, share.expand(size)) if share > 0 else own for own, (_, share) in zip(asked, kinds, strict=True)]
    policy, acting = (torch.cat([torch.cat([table, table]) for table in tables]) for tables in (asked, mixed))
    # arrays from here: there are as many steps as the longest object has, and each is little work
    child, chances = graph.following, np.ascontiguousarray(chance.cpu().numpy().T)
    edges = shares(acting)[:, :-1].cpu().numpy()  # the last end is 1, which no chance reaches
    best = policy.argmax(1).cpu().numpy() if noisy < len(chances) else None
    now = graph.space.index(states).cpu().numpy()
    passed, chosen = np.empty((len(chances) + 1, len(now)), dtype=np.int64), np.empty((len(chances), len(now)), dtype=np.int64)
    passed[0], steps = now, 0
    for step, drawn in enumerate(chances):
        key = now if alike else now + offset
        action = (drawn[:, None] >= edges[key]).sum(1) if best is None or step < noisy else best[key]
        now = child[now * k + action]
        passed[step + 1], chosen[step], steps = now, action, step + 1
        if now.min() >= size:
            break
    trail, taken = (torch.from_numpy(x.T.copy()).to(device) for x in (passed[: steps + 1], chosen[:steps]))
    before, numbers = trail[:, :-1], trail % size
    open_ = before < size
    at = (before if alike else before + torch.from_numpy(offset).to(device)[:, None]) * k + taken
    own = torch.where(open_, policy.flatten()[at], 0)
    same = all(table is other for table, other in zip(asked, mixed, strict=True))
    return Walk(
        torch.where(open_, taken, 0),
        own,
        own if same else torch.where(open_, acting.flatten()[at], 0),
        every[numbers],
        open_.sum(1),
        trail[:, -1] >= size,
        numbers,
    )


def walk_direct(
    space: Construction,
    ask: Ask,
    states: Int[Tensor, "N D"],
    goals: Int[Tensor, " N"],
    rate: Float[Tensor, " N"],
    chance: Float[Tensor, "N T"],
    noisy: int,
) -> Walk:
    """The same, the network asked at every step about the objects that are unfinished."""
    n, device, explores = len(states), states.device, bool((rate > 0).any())
    rows, now, several = torch.arange(n, device=device), states, bool((goals != 0).any())
    record: list[tuple[Tensor, ...]] = []
    for step, drawn in enumerate(chance.T):
        log_policy = ask(now, goals)
        acting = explored(log_policy, rate[rows]) if explores else log_policy
        action = draw(acting, drawn[rows]) if step < noisy else log_policy.argmax(1)
        now = space.after(now, action)
        over = space.complete(now) if space.stop is None else action == space.stop
        record.append((rows, action, log_policy, acting, now))
        if bool(over.any()):
            left = (~over).nonzero()[:, 0]
            rows, now = rows[left], now[left]
            goals = goals[left] if several else goals[: len(rows)]
            if not len(rows):
                break
    row, action, policy, acting, reached = (torch.cat(column) for column in zip(*record, strict=True))
    policy, acting = (table.gather(1, action[:, None])[:, 0] for table in (policy, acting))
    width = len(record)
    at = torch.arange(width, device=device).repeat_interleave(torch.tensor([len(some) for some, *_ in record], device=device))
    trail = states[:, None].repeat(1, width + 1, 1)
    trail[row, at + 1] = reached
    put = lambda x: x.new_zeros(n, width).index_put((row, at), x)
    ended = torch.ones(n, dtype=torch.bool, device=device).index_fill(0, rows, False)
    return Walk(put(action), put(policy), put(acting), trail, torch.bincount(row, minlength=n), ended)


class Table(nn.Module):
    """One row of outputs per state, all 0 at first."""

    def __init__(self, rows: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(rows, outputs, dtype=dtype))

    def forward(self, index: Int[Tensor, " U"]) -> Float[Tensor, "U outputs"]:
        """The rows of these numbers."""
        return self.rows[index]


def forward_only(net: nn.Module, outputs: int) -> Callable[[Tensor], Tensor]:
    """The first outputs of an `mlp`, without gradient and without the cost of calling modules: for a few objects at a time.

    Of any other module the same by calling it.

    >>> net = mlp(3, 4, 2, 5)
    >>> with torch.no_grad(): torch.allclose(forward_only(net, 2)(torch.ones(5, 3)), net(torch.ones(5, 3))[:, :2])
    True
    """
    if not isinstance(net, nn.Sequential) or any(type(part) not in (nn.Linear, nn.ReLU) for part in net):
        return lambda seen: net(seen)[:, :outputs]
    *inner, last = [(part.weight.detach(), part.bias.detach()) for part in net if isinstance(part, nn.Linear)]
    ends = last[0][:outputs].T, last[1][:outputs]

    def forward(x: Tensor) -> Tensor:
        for weight, bias in inner:
            x = torch.addmm(bias, x, weight.T).relu_()
        return torch.addmm(ends[1], x, ends[0])

    return forward


def mlp(inputs: int, hidden: int, layers: int, outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    sizes = [inputs, *[hidden] * layers]
    inner = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*inner, nn.Linear(sizes[-1], outputs))


def masked_log_softmax(logits: Float[Tensor, "U K"], allowed: Bool[Tensor, "U K"]) -> Float[Tensor, "U K"]:
    """log-softmax over the allowed entries, -inf elsewhere; even over all where none is allowed, so that no NaN comes back.

    >>> masked_log_softmax(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]])).exp()
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000]])
    """
    nothing = ~allowed.any(-1, keepdim=True)
    return torch.where(allowed | nothing, torch.where(nothing, 0, logits), -torch.inf).log_softmax(-1)


def explored(log_policy: Float[Tensor, "R K"], rate: Float[Tensor, " R"]) -> Float[Tensor, "R K"]:
    """log of (1 - rate) P_F + rate x uniform over the actions that P_F allows; P_F itself, to the bit, where the rate is 0.

    >>> explored(torch.tensor([[0.0, -torch.inf], [-0.6931, -0.6931]]), torch.tensor([0.1, 0.1])).exp()
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000]])
    """
    legal = log_policy > -torch.inf
    even = (rate[:, None] * legal / legal.sum(-1, keepdim=True)).log()
    return torch.logaddexp((-rate[:, None]).log1p() + log_policy, even)


def shares(log_policy: Float[Tensor, "R K"]) -> Float[Tensor, "R K"]:
    """Where the share of each action in [0, 1] ends, in the order of the actions; the last end is exactly 1.

    >>> shares(torch.tensor([[0.5, 0.0, 0.5]]).log())
    tensor([[0.5000, 0.5000, 1.0000]])
    """
    ends = log_policy.exp().cumsum(1)
    return ends / ends[:, -1:]


def draw(log_policy: Float[Tensor, "R K"], chance: Float[Tensor, " R"]) -> Int[Tensor, " R"]:
    """The action in whose share of [0, 1) the number falls; never one with probability 0.

    >>> draw(torch.tensor([[0.5, 0.5, 0.0]]).log().repeat(3, 1), torch.tensor([0.0, 0.5, 0.9999]))
    tensor([0, 1, 1])
    """
    return (chance[:, None] >= shares(log_policy)).sum(1)
