"""A policy and its value model that learn from what their own search found, round after round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from payoff.pipeline import Policy, Signal, Start
from payoff.search.one_step import prefixes, scored_by
from payoff.search.tree_labels import checked_leaves, quality_targets
from payoff.search.value_tree import SearchTree, search_tree
from payoff.trajectories import Trajectories


class Round(NamedTuple):
    """What one round found and did: the tree, the rows of it that the policy learned from, and numbers by name."""

    tree: SearchTree
    traces: Int[Tensor, " R"]
    metrics: dict[str, float | int | None]


def self_training_round(
    policy: Any,
    model: Any,
    starts: Sequence[Start],
    reward: Signal,
    rng: torch.Generator,
    *,
    learning_rate: float = 1e-4,
    epochs: int = 2,
    errors: Literal["hard", "soft"] = "hard",
    traces: int | None = None,
    **search: Any,
) -> Round:
    """Search with the model as value, check what was finished, teach the policy what was right and the model the tree (ReST-MCTS*).

    1. `search_tree` from every start; before the model was fitted at all, every value is 0 and the search spreads
    2. finished rollouts are right where `reward` pays above 1/2
    3. the policy takes `epochs` passes of Adam over the right ones, each text once (at most `traces` for a start, the most valuable
       first; None: all), by the mean log-likelihood of their own actions
    4. the model is fitted to `quality_targets` of every node that has any: `model.fit(prefixes, labels, known)`

    model:  a `process-reward-model` or what has its `score`, `fit` and `fitted`; its states must not be those of the policy that
            learns here: give it a copy
    search: options of `search_tree`

    Repeat it: each round searches with both as they are. Raises ValueError for a learning rate that is not positive, epochs < 1.

    >>> from payoff.policies.tabular import Tabular
    >>> from payoff.search.tree_labels import _first_letter
    >>> class Blind:  # says one half of everything, and learns nothing
    ...     fitted = True
    ...     def score(self, traj): return torch.full((len(traj), 2), 0.5), traj.exists
    ...     def fit(self, traj, labels, known): return {}
    >>> policy, rng = Tabular(2, 2), torch.Generator().manual_seed(0)
    >>> found = self_training_round(policy, Blind(), [Start("s", {})], _first_letter, rng, learning_rate=1.0, end_gate=2.0)
    >>> float(policy.probabilities()[2:].detach().sum()) > 0.8
    True
    """
    if not learning_rate > 0 or epochs < 1:
        raise ValueError(
            f"self_training_round: learning_rate must be positive and epochs at least 1, got {learning_rate} and {epochs}"
        )
    tree = search_tree(policy, starts, scored_by(model) if bool(model.fitted) else _nothing, rng, **search)
    right, known = checked_leaves(tree, reward)
    chosen = _distinct(tree, right, traces)
    metrics: dict[str, float | int | None] = {
        "search/right": float(right[tree.chosen].double().mean()),
        "search/solved": float(torch.zeros(len(starts)).index_fill(0, tree.start[right].cpu(), 1).mean()),
        "search/steps": tree.proposed,
        "search/traces": len(chosen),
    }
    if len(chosen):
        metrics["policy/loss"] = _imitate(policy, tree.traj.select(chosen), learning_rate, epochs)
    target, sure = quality_targets(tree, right, known, errors=errors)
    nodes = sure.nonzero()[:, 0]
    if len(nodes):
        cut = prefixes(tree.traj.select(nodes), tree.at[nodes])
        last = cut.step.gather(1, (cut.length - 1)[:, None]).long()
        shape = len(cut), int(cut.step.max()) + 1
        labels = torch.zeros(shape, device=cut.device).scatter(1, last, target[nodes].float()[:, None])
        metrics |= model.fit(cut, labels, torch.zeros(shape, dtype=torch.bool, device=cut.device).scatter(1, last, True))
    return Round(tree, chosen, metrics)


def _imitate(policy: Policy, traj: Trajectories, learning_rate: float, epochs: int) -> float:
    """Raise the mean log-likelihood of all actions of these rollouts; its negative before the last step."""
    module: Any = policy
    traj = traj.replace(parent=None, fork=None)  # actions shared with a parent are taught too
    optimiser = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=learning_rate)
    loss = torch.zeros(())
    for _ in range(epochs):
        logp = policy.evaluate(traj).logp
        loss = -torch.where(traj.own.to(logp.device), logp, 0).sum() / traj.own.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return float(loss.detach())


def _distinct(tree: SearchTree, right: Tensor, most: int | None) -> Int[Tensor, " R"]:
    """The right rollouts of every start, each sequence of actions once, the most valuable first, at most so many."""
    kept: dict[int, list[int]] = {}
    seen: set[tuple[int, bytes]] = set()
    nodes = right.nonzero()[:, 0]
    for node in nodes[tree.own[nodes].argsort(descending=True, stable=True)].tolist():
        start, length = int(tree.start[node]), int(tree.traj.length[node])
        key = start, tree.traj.actions[node, :length].cpu().numpy().tobytes()
        mine = kept.setdefault(start, [])
        if key not in seen and (most is None or len(mine) < most):
            seen.add(key)
            mine.append(node)
    return torch.tensor(sorted(node for mine in kept.values() for node in mine), dtype=torch.int64, device=tree.at.device)


def _nothing(traj: Trajectories, at: Tensor) -> Tensor:
    return torch.zeros(len(traj), device=traj.device)
