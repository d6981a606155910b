"""How near the optimal policy of a tabular process is to a cliff, where the smallest change of the reward changes it all."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.tasks.mdp import MDP


class Cliff(NamedTuple):
    """Of every state how far the best action is ahead, and what that allows.

    gap:    [S] best Q minus the next best; 0 for a tie, infinite with a single action
    ties:   how many states have several best actions
    radius: no reward within this distance of each entry has another greedy action anywhere: least gap (1 - discount) / 2
    """

    gap: Float[Tensor, " S"]
    ties: int
    radius: float


def cliff(mdp: MDP, reward: Float[Tensor, "S A S"] | Float[Tensor, "S A"] | None = None) -> Cliff:
    """Action gaps of the optimal values, and the radius within which the greedy policy cannot change (arXiv:2507.20150).

    |Q*_r - Q*_r'| <= |r - r'| / (1 - discount) in the greatest entry, so a gap shrinks by at most twice that. At a tie the radius
    is 0: a reward that breaks it by any amount turns the policy there completely. The radius is sufficient; a change that is the
    same for all actions may be far larger.

    >>> from payoff.tasks.mdp import chain_mdp
    >>> found = cliff(chain_mdp(3))
    >>> [round(x, 3) for x in found.gap.tolist()], found.ties, found.radius
    ([0.09, 0.19, 0.0], 1, 0.0)
    """
    q = mdp.optimum(reward).q
    if mdp.actions == 1:
        return Cliff(torch.full_like(q[:, 0], torch.inf), 0, float("inf"))
    two = q.topk(2, 1).values
    several = mdp.best_actions(reward).sum(1) > 1
    gap = torch.where(several, 0, two[:, 0] - two[:, 1])
    return Cliff(gap, int(several.sum()), float(gap.min()) * (1 - mdp.discount) / 2)


def soft_slope(mdp: MDP, temperature: float) -> float:
    """How fast the entropy-regularised policy can turn: |pi_r - pi_r'|_1 <= slope times the greatest |r - r'|, in every state.

    1 / (temperature (1 - discount)): the soft Q is as Lipschitz as Q, and a softmax moves by at most the greatest change of its
    logits. The price is a value up to temperature log A / (1 - discount) below the best. Raises ValueError unless temperature > 0.

    >>> from payoff.tasks.mdp import chain_mdp
    >>> round(soft_slope(chain_mdp(3), 0.5), 9)
    20.0
    """
    if not temperature > 0:
        raise ValueError(f"soft_slope: temperature must be > 0, got {temperature}")
    return 1 / (temperature * (1 - mdp.discount))


def policy_turn(mdp: MDP, change: Float[Tensor, "S A S"] | Float[Tensor, "S A"], *, temperature: float = 0.0) -> float:
    """The greatest total variation, over states, between the optimal policies before and after a change of the reward.

    temperature 0: the greedy ones, ties shared; else the entropy-regularised ones. Raises ValueError for a negative one.

    >>> from payoff.tasks.mdp import chain_mdp
    >>> nudge = torch.tensor([[0.0, 0.0]] * 2 + [[0.0, 1e-6]], dtype=torch.float64)
    >>> policy_turn(chain_mdp(3), nudge)  # the last state ties
    0.5
    """
    if temperature < 0:
        raise ValueError(f"policy_turn: temperature must be at least 0, got {temperature}")
    after = mdp.expected_reward() + mdp.expected_reward(change)
    pair = [mdp.soft_optimum(temperature, r) if temperature else mdp.optimum(r) for r in (mdp.expected_reward(), after)]
    return float((pair[0].policy - pair[1].policy).abs().sum(1).max()) / 2
