"""Building an object action by action: what a task must say about it, and everything about a small one, enumerated.

The states form a graph without cycles. No network and no sampling: those are in `gflownet`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_LARGEST = 4_000_000  # numbers in a table over the graph


@runtime_checkable
class Construction(Protocol):
    """Objects built by K actions from one empty object; a state is a row of D integers. A task of this kind is one.

    Every method takes states of any leading shape. `actions` is K, `width` D, `longest` the greatest number of actions,
    `stop` the action that ends the object and leaves the state as it is (None: an object ends when nothing can be added).
    """

    actions: int
    width: int
    longest: int
    feature_count: int
    state_count: int  # how many states there are; may be astronomic
    stop: int | None

    def initial(self, n: int) -> Int[Tensor, "n D"]:
        """n empty objects."""

    def legal(self, states: Int[Tensor, "*shape D"]) -> Bool[Tensor, "*shape K"]:
        """Which actions can be taken; none where the object is complete."""

    def parents(self, states: Int[Tensor, "*shape D"]) -> Bool[Tensor, "*shape K"]:
        """Which actions, the stop action left out, can have led here."""

    def after(self, states: Int[Tensor, "*shape D"], actions: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape D"]:
        """The states these legal actions lead to."""

    def before(self, states: Int[Tensor, "*shape D"], actions: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape D"]:
        """The states from which these actions led here."""

    def complete(self, states: Int[Tensor, "*shape D"]) -> Bool[Tensor, "*shape"]:
        """Where nothing can be added, so that the action that led here ended the object."""

    def depth(self, states: Int[Tensor, "*shape D"]) -> Int[Tensor, "*shape"]:
        """How many actions lead here."""

    def features(self, states: Int[Tensor, "*shape D"]) -> Float[Tensor, "*shape F"]:
        """What a network sees."""

    def log_reward(self, states: Int[Tensor, "*shape D"]) -> Float[Tensor, "*shape"]:
        """What the environment pays for the object, in logarithms; of an unfinished one, what it would say of the part."""

    def index(self, states: Int[Tensor, "*shape D"]) -> Int[Tensor, "*shape"]:
        """The number of each state, 0 to state_count - 1; the empty object is 0."""

    def state(self, index: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape D"]:
        """The states of these numbers."""

    def written(self, state: list[int]) -> str:
        """How an object is shown."""

    def action_name(self, action: int) -> str:
        """How an action is shown."""


class StateGraph:
    """All S states of a small construction, and exact sums over everything that can be built.

    child: [S, K] the state each action leads to (a stop leads to the object's own state); 0 where it is not legal
    legal, ends: [S, K] whether the action can be taken, and whether it ends the object
    log_uniform: [S, K] log-probability of the action under the backward policy that goes to each parent alike
    objects: [S] which states are complete objects or can be stopped at

    Raises ValueError for a graph too large to list.

    >>> from payoff.tasks.hypergrid import Hypergrid
    >>> graph = StateGraph(Hypergrid(dimensions=1, side=3, reward="flat"))
    >>> even = torch.where(graph.legal, 0.0, -torch.inf).log_softmax(1)
    >>> graph.object_distribution(even)
    tensor([0.5000, 0.2500, 0.2500])
    """

    def __init__(self, space: Construction) -> None:
        if space.state_count * space.actions > _LARGEST:
            raise ValueError(
                f"StateGraph: {space.state_count} states x {space.actions} actions are too many to list (at most {_LARGEST})"
            )
        self.space = space
        self.states = space.state(torch.arange(space.state_count))
        self.legal = space.legal(self.states)
        rows, actions = self.legal.nonzero(as_tuple=True)
        reached = space.after(self.states[rows], actions)
        self.child = torch.zeros(self.legal.shape, dtype=torch.int64)
        self.child[rows, actions] = space.index(reached)
        self.ends = torch.zeros_like(self.legal)
        self.ends[rows, actions] = space.complete(reached) | (actions == (-1 if space.stop is None else space.stop))
        self.log_uniform = torch.zeros(self.legal.shape, dtype=torch.float64)
        self.log_uniform[rows, actions] = uniform_backward(space, reached, actions)
        self.objects = torch.zeros(space.state_count, dtype=torch.bool)
        self.objects[self.child[self.ends]] = True
        depth = space.depth(self.states)
        order = depth.argsort(stable=True)
        self._layers = order.split(torch.bincount(depth).tolist())

    @cached_property
    def following(self) -> np.ndarray:
        """[2 S K] where action k leads from state s, at s K + k, as numbers: S more than its own for an object that is finished.

        There, in the second half, nothing moves any more.
        """
        size, k = self.child.shape
        still = torch.arange(size, 2 * size)[:, None].expand(-1, k)
        return torch.cat([self.child + size * self.ends, still]).flatten().numpy()

    @cached_property
    def log_rewards(self) -> Float[Tensor, " S"]:
        """What the environment says of every state."""
        return self.space.log_reward(self.states)

    @cached_property
    def target(self) -> Float[Tensor, " S"]:
        """R / Z over all states; 0 for those that are no objects."""
        return torch.where(self.objects, self.log_rewards, -torch.inf).softmax(0)

    @cached_property
    def log_z(self) -> float:
        """log of the sum of all rewards."""
        return float(self.log_rewards[self.objects].logsumexp(0))

    def object_distribution(self, log_policy: Float[Tensor, "S K"]) -> Float[Tensor, " S"]:
        """The probability that a policy ends with each object, 0 for states that are none; differentiable."""
        return self._flow(log_policy)[1]

    def occupancy(self, log_policy: Float[Tensor, "S K"]) -> Float[Tensor, " S"]:
        """The probability of passing through each state on the way, 1 for the empty object; differentiable."""
        return self._flow(log_policy)[0]

    def log_flows(
        self, log_reward: Float[Tensor, " S"] | None = None, log_backward: Float[Tensor, "S K"] | None = None
    ) -> Float[Tensor, " S"]:
        """log F(s): the mass of all objects that the backward policy sends through each state; log Z at the empty one.

        F(s) = sum over actions of F(child) P_B(s | child), with F = R where the action ends the object. By default the
        environment's rewards and the uniform backward policy. -inf where nothing comes through.
        """
        rewards = self.log_rewards if log_reward is None else log_reward
        backward = self.log_uniform if log_backward is None else log_backward
        flows = torch.full_like(rewards, -torch.inf)
        for rows in reversed(self._layers):
            flows[rows] = self._edges(rows, flows, rewards, backward).logsumexp(1)
        return flows

    def log_policy(
        self, log_reward: Float[Tensor, " S"] | None = None, log_backward: Float[Tensor, "S K"] | None = None
    ) -> Float[Tensor, "S K"]:
        """log P_F of the flows of `log_flows`: the one policy with this backward policy that ends in proportion to the reward."""
        rewards = self.log_rewards if log_reward is None else log_reward
        backward = self.log_uniform if log_backward is None else log_backward
        flows = self.log_flows(rewards, backward)
        edges = self._edges(torch.arange(len(flows)), flows, rewards, backward)
        total = edges.logsumexp(1, keepdim=True)
        return torch.where(total > -torch.inf, edges - torch.where(total > -torch.inf, total, 0), -torch.inf)

    def trajectories(self) -> tuple[Int[Tensor, "M T"], Int[Tensor, " M"]]:
        """Every way to build every object: actions, 0 beyond the end, and lengths. For graphs of a few thousand ways at most."""
        now, actions = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int64)
        done: list[Tensor] = []
        while len(now):
            row, action = self.legal[now].nonzero(as_tuple=True)
            longer = torch.cat([actions[row], action[:, None]], 1)
            over = self.ends[now[row], action]
            done.append(longer[over])
            now, actions = self.child[now[row], action][~over], longer[~over]
        width = done[-1].shape[1]
        length = torch.cat([torch.full((len(some),), some.shape[1], dtype=torch.int64) for some in done])
        return torch.cat([torch.nn.functional.pad(some, (0, width - some.shape[1])) for some in done]), length

    def _edges(self, rows: Tensor, flows: Tensor, rewards: Tensor, backward: Tensor) -> Float[Tensor, "R K"]:
        child, ends = self.child[rows], self.ends[rows]
        reached = torch.where(ends, rewards[child], flows[child])
        return torch.where(self.legal[rows], reached + backward[rows], -torch.inf)

    def _flow(self, log_policy: Float[Tensor, "S K"]) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
        reach = torch.zeros_like(log_policy[:, 0])
        reach[0] = 1
        ended = torch.zeros_like(reach)
        policy = torch.where(self.legal, log_policy, -torch.inf).exp()
        for rows in self._layers:
            moved = reach[rows, None] * policy[rows]
            ends, child = self.ends[rows], self.child[rows].flatten()
            ended = ended.index_add(0, child, torch.where(ends, moved, 0).flatten())
            reach = reach.index_add(0, child, torch.where(ends, 0, moved).flatten())
        return reach, ended


def uniform_backward(
    space: Construction, reached: Int[Tensor, "*shape D"], actions: Int[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """log-probability of undoing these actions from the states they led to, each parent alike; 0 for a stop."""
    log_backward = -space.parents(reached).sum(-1).clamp(min=1).double().log()
    return log_backward if space.stop is None else torch.where(actions == space.stop, 0, log_backward)
