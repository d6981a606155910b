"""Tree search over steps, guided by a value of unfinished solutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Policy, Start
from payoff.search.one_step import Steps, Value, as_float, step_on
from payoff.trajectories import Trajectories, concatenate


class SearchTree(NamedTuple):
    """Every prefix that was looked at, a node each: the prefix of node i is traj[i, :at[i]]. Parents come before their children.

    parent: the node it is one step longer than; -1 for the empty prefixes, the first nodes, in the order of the starts
    start:  which start it belongs to; depth: its steps; over: the rollout ends there
    value:  as backed up; own: as the value function gave it; visits: how often a search went through it
    chosen: [starts] the node each search ended with, reached its gate or not; proposed: steps drawn, looked ahead ones included
    """

    traj: Trajectories
    at: Int[Tensor, " M"]
    parent: Int[Tensor, " M"]
    start: Int[Tensor, " M"]
    depth: Int[Tensor, " M"]
    over: Bool[Tensor, " M"]
    value: Float[Tensor, " M"]
    own: Float[Tensor, " M"]
    visits: Int[Tensor, " M"]
    chosen: Int[Tensor, " B"]
    proposed: int


@method("rest-mcts", kind="search", paper="arXiv:2406.03816")
def search_tree(
    policy: Policy,
    starts: Sequence[Start],
    value: Value,
    rng: torch.Generator,
    *,
    iterations: int = 16,
    proposals: int = 3,
    exploration: float = 0.7,
    mix: float = 0.5,
    lookahead: int = 3,
    end_gate: float = 0.9,
    horizon: int | None = None,
) -> SearchTree:
    """Grow a tree of steps where a value promises most (MCTS*, ReST-MCTS*); `answers` takes the rollouts out of it.

    Each iteration, for every start: go down from the empty prefix to a node without children, each time to the child with the
    largest V + exploration sqrt(2 ln N_parent / N), one that was never visited first (of several the most valuable); draw
    `proposals` steps from there, each with the value it is given; look ahead from the best of them, up to `lookahead` single steps,
    V <- (1 - mix) V + mix max of the values met; then, upwards, N + 1 and V = mean of the children's V weighed by their N.

    value:    what a prefix is worth, in [0, 1], of (trajectories, at): a process reward model by `scored_by`, the true value in an
              experiment. A prefix that ends a rollout is asked about like any other
    end_gate: a search stops at the node it goes down to when that one's V is at least this, else after so many iterations with the
              finished node of the largest own value (the largest of all where none is finished)
    horizon:  most actions of a step, see `payoff.search.one_step.step_on`

    A node that is over has no children, and is only visited again. Searches of all starts go in step, so the policy and the value
    are asked once for all. An over-confident value ends a search early and wrongly.
    Raises ValueError for no starts, counts below 1 (lookahead: 0), and a mix outside 0..1.

    >>> from payoff.policies.tabular import Tabular
    >>> def count_b(traj, at):  # how many of three letters are b
    ...     return ((traj.actions == 1) & (torch.arange(traj.width) < at[:, None])).sum(1) / 3
    >>> policy, rng = Tabular(2, 3), torch.Generator().manual_seed(0)
    >>> tree = search_tree(policy, [Start("s", {})], count_b, rng, iterations=8)
    >>> answers(tree, policy, rng).items[0]["response"]
    'bbb'
    """
    for name, count, least in (
        ("starts", len(starts), 1),
        ("iterations", iterations, 1),
        ("proposals", proposals, 1),
        ("lookahead", lookahead, 0),
    ):
        if count < least:
            raise ValueError(f"search_tree: {name} must be at least {least}, got {count}")
    if not 0 <= mix <= 1:
        raise ValueError(f"search_tree: mix must lie in 0..1, got {mix}")
    grown = _Grown(policy.rollout(starts, 1, rng), value, rng, policy, horizon)
    gone = [-1] * len(starts)  # where a search ended early
    for _ in range(iterations):
        leaves = []
        for b in range(len(starts)):
            if gone[b] < 0:
                leaf = grown.descend(b, exploration)
                if grown.value[leaf] >= end_gate:
                    gone[b] = leaf
                else:
                    leaves.append(leaf)
        if not leaves:
            break
        ended = [leaf for leaf in leaves if grown.over[leaf]]
        best = grown.expand([leaf for leaf in leaves if not grown.over[leaf]], proposals)
        grown.look_ahead(best, lookahead, mix)
        for node in [*ended, *best]:
            grown.back_up(node)
    return grown.tree([grown.favourite(b) if node < 0 else node for b, node in enumerate(gone)])


def answers(tree: SearchTree, policy: Policy, rng: torch.Generator) -> Trajectories:
    """A rollout for every start: the one its search chose, carried to its end by the policy where that is not its end.

    >>> from payoff.policies.tabular import Tabular
    >>> policy, rng = Tabular(2, 3), torch.Generator().manual_seed(0)
    >>> nothing = lambda traj, at: torch.zeros(len(traj))
    >>> tree = search_tree(policy, [Start("s", {})], nothing, rng, iterations=1, lookahead=0)
    >>> tree.over.any().item(), len(answers(tree, policy, rng).items[0]["response"])
    (False, 3)
    """
    over = tree.over[tree.chosen]
    done, going = tree.chosen[over], tree.chosen[~over]
    parts = [tree.traj.select(done)] if len(done) else []
    if len(going):
        parts.append(policy.resume(tree.traj, going, tree.at[going], 1, rng))
    order = torch.cat([over.nonzero()[:, 0], (~over).nonzero()[:, 0]]).argsort()
    return concatenate(parts).select(order)


class _Grown:
    """A tree that grows: numbers in lists, rollouts in the batches they came in."""

    def __init__(self, roots: Trajectories, value: Value, rng: torch.Generator, policy: Policy, horizon: int | None) -> None:
        self.worth, self.rng, self.policy, self.horizon = value, rng, policy, horizon
        count = len(roots)
        self.batches, self.place = [roots], [(0, row) for row in range(count)]
        self.at, self.parent, self.start, self.depth = [0] * count, [-1] * count, list(range(count)), [0] * count
        self.over, self.visits = [False] * count, [0] * count
        self.value, self.own = [0.0] * count, [0.0] * count
        self.children: list[list[int]] = [[] for _ in range(count)]
        self.proposed = 0

    def descend(self, node: int, exploration: float) -> int:
        """The node without children that the rule leads to."""
        while self.children[node]:
            fresh = [child for child in self.children[node] if not self.visits[child]]
            if fresh:
                return max(fresh, key=lambda child: self.value[child])
            known = 2 * math.log(max(self.visits[node], 1))
            node = max(
                self.children[node], key=lambda child: self.value[child] + exploration * math.sqrt(known / self.visits[child])
            )
        return node

    def expand(self, leaves: list[int], proposals: int) -> list[int]:
        """Draw steps from every leaf and value them; the best child of each."""
        if not leaves:
            return []
        found, worth = self._on(leaves, proposals)
        batch = len(self.batches)
        self.batches.append(found.traj)
        for row, (at, over, number) in enumerate(zip(found.at.tolist(), found.over.tolist(), worth, strict=True)):
            leaf = leaves[row // proposals]
            self.children[leaf].append(len(self.at))
            self.place.append((batch, row))
            self.at.append(at)
            self.parent.append(leaf)
            self.start.append(self.start[leaf])
            self.depth.append(self.depth[leaf] + 1)
            self.over.append(over)
            self.visits.append(0)
            self.value.append(number)
            self.own.append(number)
            self.children.append([])
        return [max(self.children[leaf], key=lambda child: self.value[child]) for leaf in leaves]

    def look_ahead(self, nodes: list[int], steps: int, mix: float) -> None:
        """Mix into each node's value the best that is met on single steps from it; what is met is not kept."""
        best: dict[int, float] = {}
        going = [node for node in nodes if not self.over[node]]
        rows, at = (self._rows(going), torch.tensor([self.at[node] for node in going])) if going else (None, None)
        for _ in range(steps if going else 0):
            found = step_on(self.policy, rows, at.to(rows.device), 1, self.rng, horizon=self.horizon)  # type: ignore[arg-type, union-attr]
            self.proposed += len(going)
            for node, number in zip(going, as_float(self.worth(found.traj, found.at)), strict=True):
                best[node] = max(best.get(node, -math.inf), number)
            open_ = (~found.over).nonzero()[:, 0]
            going = [going[i] for i in open_.tolist()]
            if not going:
                break
            rows, at = found.traj.select(open_), found.at[open_]
        for node, number in best.items():
            self.value[node] = (1 - mix) * self.value[node] + mix * number

    def back_up(self, node: int) -> None:
        """Count a visit from here to the empty prefix, and give every node on the way its children's mean."""
        while node >= 0:
            self.visits[node] += 1
            weight = sum(self.visits[child] for child in self.children[node])
            if weight:
                self.value[node] = sum(self.visits[child] * self.value[child] for child in self.children[node]) / weight
            node = self.parent[node]

    def favourite(self, start: int) -> int:
        """What a search that was not stopped answers with."""
        mine = [node for node in range(len(self.at)) if self.start[node] == start and self.depth[node]]
        return max(mine, key=lambda node: (self.over[node], self.own[node]))

    def tree(self, chosen: list[int]) -> SearchTree:
        """All of it, as tensors."""
        traj = self._rows(list(range(len(self.at))))
        device = traj.device
        whole = lambda numbers: torch.tensor(numbers, device=device)
        real = lambda numbers: torch.tensor(numbers, dtype=torch.float64, device=device)
        return SearchTree(
            traj,
            at=whole(self.at),
            parent=whole(self.parent),
            start=whole(self.start),
            depth=whole(self.depth),
            over=whole(self.over),
            value=real(self.value),
            own=real(self.own),
            visits=whole(self.visits),
            chosen=whole(chosen),
            proposed=self.proposed,
        )

    def _on(self, nodes: list[int], n: int) -> tuple[Steps, list[float]]:
        at = torch.tensor([self.at[node] for node in nodes])
        rows = self._rows(nodes)
        found = step_on(self.policy, rows, at.to(rows.device), n, self.rng, horizon=self.horizon)
        self.proposed += len(found.at)
        return found, as_float(self.worth(found.traj, found.at))

    def _rows(self, nodes: list[int]) -> Trajectories:
        """The rollouts that hold these nodes, in this order."""
        parts, order = [], []
        for batch in dict.fromkeys(self.place[node][0] for node in nodes):
            mine = [(i, self.place[node][1]) for i, node in enumerate(nodes) if self.place[node][0] == batch]
            parts.append(self.batches[batch].select(torch.tensor([row for _, row in mine])))
            order += [i for i, _ in mine]
        return concatenate(parts).select(torch.tensor(order).argsort())
