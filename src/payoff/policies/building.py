"""Taking step after step on many unfinished objects at once, and the small networks that are asked about them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

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
    """

    actions: Int[Tensor, "N T"]
    policy: Float[Tensor, "N T"]
    acting: Float[Tensor, "N T"]
    states: Int[Tensor, "N T1 D"]
    taken: Int[Tensor, " N"]
    ended: Bool[Tensor, " N"]


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
    kinds, kind = torch.stack([goals.to(rate.dtype), rate], 1).unique(dim=0, return_inverse=True)
    every = graph.states.to(device)
    asked = [ask(every, torch.full_like(every[:, 0], int(goal))) for goal in kinds[:, 0]]
    mixed = [explored(log_policy, share.expand(size)) for log_policy, share in zip(asked, kinds[:, 1], strict=True)]
    # finished objects stand at size + their number, where nothing moves any more
    child = graph.child.to(device) + size * graph.ends.to(device)
    child = torch.cat([child, torch.arange(size, 2 * size, device=device)[:, None].expand(-1, k)]).flatten()
    policy, acting = (torch.cat([torch.cat([table, table]) for table in tables]) for tables in (asked, mixed))
    edges, best = shares(acting), policy.argmax(1)
    offset = kind * (2 * size)
    now = graph.space.index(states)
    trail, actions = [now], []
    for step in range(chance.shape[1]):
        key = now if len(kinds) == 1 else now + offset
        action = (chance[:, step, None] >= edges[key]).sum(1) if step < noisy else best[key]
        now = child[now * k + action]
        trail.append(now)
        actions.append(action)
        if int(now.min()) >= size:
            break
    passed, chosen = torch.stack(trail, 1), torch.stack(actions, 1)
    before = passed[:, :-1]
    open_ = before < size
    at = (before + offset[:, None]) * k + chosen
    return Walk(
        torch.where(open_, chosen, 0),
        torch.where(open_, policy.flatten()[at], 0),
        torch.where(open_, acting.flatten()[at], 0),
        graph.space.state(passed % size),
        open_.sum(1),
        now >= size,
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
    rows, now = torch.arange(n, device=device), states
    record: list[tuple[Tensor, ...]] = []
    ended = torch.zeros(n, dtype=torch.bool, device=device)
    for step in range(chance.shape[1]):
        log_policy = ask(now, goals)
        acting = explored(log_policy, rate[rows]) if explores else log_policy
        action = draw(acting, chance[rows, step]) if step < noisy else log_policy.argmax(1)
        now = space.after(now, action)
        over = space.complete(now) if space.stop is None else action == space.stop
        record.append((rows, torch.full_like(rows, step), action, log_policy, acting, now))
        if bool(over.any()):
            ended[rows[over]] = True
            left = ~over
            rows, now, goals = rows[left], now[left], goals[left]
            if not len(rows):
                break
    row, at, action, policy, acting, reached = (torch.cat(column) for column in zip(*record, strict=True))
    policy, acting = (rows.gather(1, action[:, None])[:, 0] for rows in (policy, acting))
    width = len(record)
    count = torch.bincount(row, minlength=n)
    trail = states[:, None].repeat(1, width + 1, 1)
    trail[row, at + 1] = reached
    put = lambda x: x.new_zeros(n, width).index_put((row, at), x)
    return Walk(put(action), put(policy), put(acting), trail, count, ended)


class Table(nn.Module):
    """One row of outputs per state, all 0 at first."""

    def __init__(self, rows: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(rows, outputs, dtype=dtype))

    def forward(self, index: Int[Tensor, " U"]) -> Float[Tensor, "U outputs"]:
        """The rows of these numbers."""
        return self.rows[index]


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
