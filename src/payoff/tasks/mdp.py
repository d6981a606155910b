"""Small Markov decision processes in which everything is computed: values, occupancies, gradients, optima hard and soft.

A policy is a table of probabilities [S, A], a reward a table [S, A, S] or [S, A]. All numbers are float64, and all but the optima
differentiable. What is enumerated over sequences, groups and estimators lies on the prefix tree of `policies.tabular` instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Reward = Float[Tensor, "S A S"] | Float[Tensor, "S A"]
_TIE = 1e-9  # actions whose values are nearer than this share of the largest value are equally good
_ROUNDS = 10_000
_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


class Values(NamedTuple):
    """V [S] and Q [S, A] of a policy."""

    v: Float[Tensor, " S"]
    q: Float[Tensor, "S A"]


class Optimum(NamedTuple):
    """The best policy [S, A] with its V and Q; of equally good actions each is as likely."""

    policy: Float[Tensor, "S A"]
    v: Float[Tensor, " S"]
    q: Float[Tensor, "S A"]


@dataclass(frozen=True)
class MDP:
    """A finite decision process: T(s' | s, a), R(s, a, s'), where episodes begin, and a discount below 1. No episode ends.

    A state that ends an episode is one that leads to itself and pays nothing.
    Raises ValueError for shapes that disagree, rows that are no probabilities, a discount outside 0 <= discount < 1.

    >>> mdp = chain_mdp(3)
    >>> always_forward = torch.tensor([[0.0, 1.0]] * 3, dtype=torch.float64)
    >>> round(float(mdp.worth(always_forward)), 6)  # one step, then a step that pays 1
    0.9
    """

    transition: Float[Tensor, "S A S"]
    reward: Float[Tensor, "S A S"]
    start: Float[Tensor, " S"]
    discount: float

    def __post_init__(self) -> None:
        s, a = self.transition.shape[:2]
        if self.transition.shape != (s, a, s) or self.reward.shape != (s, a, s) or self.start.shape != (s,):
            raise ValueError(
                f"MDP: transition and reward must be [S, A, S] and start [S], got {list(self.transition.shape)}, "
                f"{list(self.reward.shape)} and {list(self.start.shape)}"
            )
        for name, rows in (("transition", self.transition), ("start", self.start)):
            if (rows < 0).any() or ((rows.sum(-1) - 1).abs() > 1e-9).any():
                raise ValueError(f"MDP: {name} must be probabilities that add up to 1 over the last axis")
        if not 0 <= self.discount < 1:
            raise ValueError(f"MDP: discount must lie in 0 <= discount < 1, got {self.discount}")

    @property
    def states(self) -> int:
        """S."""
        return self.transition.shape[0]

    @property
    def actions(self) -> int:
        """A."""
        return self.transition.shape[1]

    def uniform(self) -> Float[Tensor, "S A"]:
        """The policy that takes every action as often."""
        return self.start.new_full((self.states, self.actions), 1 / self.actions)

    def deterministic_policies(self) -> Iterator[Float[Tensor, "S A"]]:
        """All A^S policies that never draw, the last state's action changing first."""
        for choice in itertools.product(range(self.actions), repeat=self.states):
            yield torch.nn.functional.one_hot(torch.tensor(choice), self.actions).to(self.start.dtype)

    def expected_reward(self, reward: Reward | None = None) -> Float[Tensor, "S A"]:
        """E[R(s, a, S')]: all of a reward that a policy can notice. None is the process's own reward."""
        reward = self.reward if reward is None else reward
        return reward if reward.ndim == 2 else (self.transition * reward).sum(2)

    def values(self, policy: Float[Tensor, "S A"], reward: Reward | None = None) -> Values:
        """V and Q of a policy: V = (I - discount P)^-1 r, by a linear solve."""
        r = self.expected_reward(reward)
        moves = self._moves(policy)
        v = torch.linalg.solve(torch.eye(self.states, dtype=moves.dtype) - self.discount * moves, (policy * r).sum(1))
        return Values(v, r + self.discount * self.transition @ v)

    def worth(self, policy: Float[Tensor, "S A"], reward: Reward | None = None) -> Float[Tensor, ""]:
        """J: the discounted sum of rewards to be expected from the start."""
        return self.start @ self.values(policy, reward).v

    def occupancy(self, policy: Float[Tensor, "S A"]) -> Float[Tensor, "S A"]:
        """How often each action is taken in each state, discounted: (1 - discount) sum_t discount^t P(s_t, a_t); sums to 1.

        J = <occupancy, expected reward> / (1 - discount).
        """
        moves = self._moves(policy)
        visits = torch.linalg.solve((torch.eye(self.states, dtype=moves.dtype) - self.discount * moves).T, self.start)
        return (1 - self.discount) * visits[:, None] * policy

    def policy_gradient(self, logits: Float[Tensor, "S A"], reward: Reward | None = None) -> Float[Tensor, "S A"]:
        """dJ / dlogits of the softmax policy: occupancy(s, a) A(s, a) / (1 - discount)."""
        policy = logits.softmax(1)
        v, q = self.values(policy, reward)
        return self.occupancy(policy) * (q - v[:, None]) / (1 - self.discount)

    def optimum(self, reward: Reward | None = None, *, among: Bool[Tensor, "S A"] | None = None) -> Optimum:
        """The best policy, by policy iteration; `among` says which actions are allowed in each state (None: all).

        Q is that of a best policy, given for forbidden actions too. Raises ValueError where a state has no action left.
        """
        allowed = torch.ones(self.states, self.actions, dtype=torch.bool) if among is None else among
        if not allowed.any(1).all():
            raise ValueError(f"MDP.optimum: no action is allowed in state {int((~allowed.any(1)).nonzero()[0, 0])}")
        choice = allowed.int().argmax(1)
        for _ in range(_ROUNDS):
            policy = torch.nn.functional.one_hot(choice, self.actions).to(self.start.dtype)
            v, q = self.values(policy, reward)
            open_to = torch.where(allowed, q, -torch.inf)
            better = open_to.amax(1) > q.gather(1, choice[:, None])[:, 0] + _TIE * self._size(q)
            if not better.any():
                break
            choice = torch.where(better, open_to.argmax(1), choice)
        best = _best(q, allowed, _TIE * self._size(q))
        shared = best / best.sum(1, keepdim=True)
        return Optimum(shared.to(v.dtype), v, q)

    def best_actions(self, reward: Reward | None = None, *, tolerance: float = _TIE) -> Bool[Tensor, "S A"]:
        """Which actions are optimal in each state, up to `tolerance` times the largest |Q|."""
        q = self.optimum(reward).q
        return _best(q, torch.ones_like(q, dtype=torch.bool), tolerance * self._size(q))

    def spread(self, reward: Reward | None = None) -> Float[Tensor, ""]:
        """max J - min J over all policies: 0 exactly for a reward that no policy can notice."""
        r = self.expected_reward(reward)
        return self.start @ self.optimum(r).v + self.start @ self.optimum(-r).v

    def soft_optimum(
        self, temperature: float, reward: Reward | None = None, *, reference: Float[Tensor, "S A"] | None = None
    ) -> Optimum:
        """The policy that maximises E[sum_t discount^t (R - temperature KL(pi(.|s_t) || reference(.|s_t)))], with its soft V and Q.

        pi = reference exp((Q - V) / temperature), V = temperature log sum_a reference exp(Q / temperature). Without a reference the
        bonus is temperature times the entropy. Found by soft policy iteration, which converges quadratically.
        Raises ValueError unless temperature > 0.
        """
        if not temperature > 0:
            raise ValueError(f"MDP.soft_optimum: temperature must be > 0, got {temperature}")
        r = self.expected_reward(reward)
        prior = torch.zeros_like(r) if reference is None else reference.log()
        policy = (prior + r / temperature).softmax(1)
        v, q = self._soft_values(policy, prior, r, temperature)
        last = float("inf")
        for _ in range(_ROUNDS):
            policy = (prior + q / temperature).softmax(1)
            after = self._soft_values(policy, prior, r, temperature)
            moved = float((after.q - q).abs().max()) / self._size(after.q)
            v, q = after
            if moved <= 1e-14 or last <= moved <= 1e-9:  # what is left is rounding, and does not shrink
                break
            last = moved
        return Optimum((prior + q / temperature).softmax(1), v, q)

    def next_states(self, state: Int[Tensor, " n"], action: Int[Tensor, " n"], rng: torch.Generator) -> Int[Tensor, " n"]:
        """One drawn successor of each state and action."""
        return torch.multinomial(self.transition[state, action], 1, generator=rng)[:, 0]

    def _soft_values(
        self, policy: Float[Tensor, "S A"], prior: Float[Tensor, "S A"], r: Float[Tensor, "S A"], temperature: float
    ) -> Values:
        some = policy > 0
        excess = torch.where(some, torch.where(some, policy, 1).log() - torch.where(some, prior, 0), 0)
        v, _ = self.values(policy, r - temperature * excess)
        return Values(v, r + self.discount * self.transition @ v)

    def _moves(self, policy: Float[Tensor, "S A"]) -> Float[Tensor, "S S"]:
        return torch.einsum("sa,sat->st", policy, self.transition)

    @staticmethod
    def _size(q: Tensor) -> float:
        return max(float(q.abs().max()), 1e-300)


def random_mdp(states: int = 8, actions: int = 3, *, discount: float = 0.9, successors: int | None = None, seed: int = 0) -> MDP:
    """Transitions drawn evenly from the simplex over `successors` states (None: all), normal rewards, an even start.

    >>> random_mdp(4, 2, successors=1).transition.amax(2).unique().tolist()
    [1.0]
    """
    successors = states if successors is None else successors
    if not 1 <= successors <= states:
        raise ValueError(f"random_mdp: successors must lie in 1..{states}, got {successors}")
    rng = torch.Generator().manual_seed(seed)
    shape = (states, actions, states)
    weight = -torch.rand(shape, generator=rng, dtype=torch.float64).clamp(min=1e-300).log()
    first = torch.rand(shape, generator=rng, dtype=torch.float64).argsort(2).argsort(2) < successors
    weight = torch.where(first, weight, 0)
    return MDP(
        weight / weight.sum(2, keepdim=True),
        torch.randn(shape, generator=rng, dtype=torch.float64),
        torch.full((states,), 1 / states, dtype=torch.float64),
        discount,
    )


def chain_mdp(length: int = 5, *, slip: float = 0.0, discount: float = 0.9) -> MDP:
    """States in a row from the first on; action 0 goes back, 1 forward; reaching the last pays 1, and there it ends.

    slip: the chance to go the other way. Raises ValueError for a length below 2 and a slip outside 0..1.

    >>> chain_mdp(3).optimum().v.tolist()
    [0.9, 1.0, 0.0]
    """
    if length < 2 or not 0 <= slip <= 1:
        raise ValueError(f"chain_mdp: length must be at least 2 and slip lie in 0..1, got {length} and {slip}")
    transition = torch.zeros(length, 2, length, dtype=torch.float64)
    for s in range(length - 1):
        for a, step in enumerate((-1, 1)):
            transition[s, a, max(s + step, 0)] += 1 - slip
            transition[s, a, max(s - step, 0)] += slip
    transition[-1, :, -1] = 1
    reward = torch.zeros_like(transition)
    reward[:-1, :, -1] = 1
    start = torch.zeros(length, dtype=torch.float64)
    start[0] = 1
    return MDP(transition, reward, start, discount)


def gridworld(rows: Sequence[str] = ("S..", ".#X", "..G"), *, slip: float = 0.0, discount: float = 0.9) -> MDP:
    """A map of cells: `S` starts (evenly), `#` wall, `G` pays 1 and ends, `X` pays -1 and ends, anything else is free.

    Actions: up, right, down, left; into a wall or over the edge one stays. slip: the chance to move to a side instead.
    States are the cells that are no wall, row by row; the last state is the end. Raises ValueError for rows of different widths,
    a map without `S`, a slip outside 0..1.

    >>> world = gridworld(("SG",))
    >>> world.states, round(float(world.start @ world.optimum().v), 6)
    (3, 1.0)
    """
    if len({len(row) for row in rows}) != 1 or not 0 <= slip <= 1:
        raise ValueError("gridworld: rows must be equally wide and slip lie in 0..1")
    cells = {(y, x): mark for y, row in enumerate(rows) for x, mark in enumerate(row) if mark != "#"}
    number = {cell: i for i, cell in enumerate(cells)}
    if "S" not in cells.values():
        raise ValueError("gridworld: the map has no S to start from")
    end = len(cells)
    transition = torch.zeros(end + 1, 4, end + 1, dtype=torch.float64)
    reward, start = torch.zeros_like(transition), torch.zeros(end + 1, dtype=torch.float64)
    transition[end, :, end] = 1
    for (y, x), s in number.items():
        mark = cells[y, x]
        start[s] = float(mark == "S")
        if mark in "GX":
            transition[s, :, end] = 1
            continue
        for a in range(4):
            for turn, chance in ((0, 1 - slip), (1, slip / 2), (-1, slip / 2)):
                dy, dx = _MOVES[(a + turn) % 4]
                there = (y + dy, x + dx) if (y + dy, x + dx) in cells else (y, x)
                transition[s, a, number[there]] += chance
                reward[s, a, number[there]] = {"G": 1.0, "X": -1.0}.get(cells[there], 0.0)
    return MDP(transition, reward, start / start.sum(), discount)


def _best(q: Float[Tensor, "S A"], allowed: Bool[Tensor, "S A"], tolerance: float) -> Bool[Tensor, "S A"]:
    q = torch.where(allowed, q, -torch.inf)
    return allowed & (q >= q.amax(1, keepdim=True) - tolerance)
