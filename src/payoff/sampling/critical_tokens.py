"""Rollouts that branch where the policy was least sure: part of a group is regenerated from critical positions of the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Policy, Start
from payoff.trajectories import Trajectories, concatenate

Eligible = Callable[[Trajectories], Tensor]  # bool [N, T]: where a rollout may be left


@method("cure", kind="sampler", paper="arXiv:2508.11016", needs=("entropy",), sees="group")
def critical_resampling(
    policy: Policy,
    starts: Sequence[Start],
    n: int,
    rng: torch.Generator,
    *,
    branches: int = 3,
    positions: int | None = 20,
    shortest: int = 2,
    skip: Sequence[str] = (),
    eligible: Eligible | None = None,
) -> Trajectories:
    """n rollouts of every start, most of them regenerated from positions where others were least sure (CURE, stage 1).

    n / (1 + branches) trunks are rolled out. In each, one of the `positions` eligible positions of the highest entropy is drawn
    evenly; what stands before it is kept, and `branches` continuations are sampled from there, the critical action included. Trunks
    and branches of a start are one group of n. A branch's kept prefix is context: its actions are trained in the trunk's row.

    branches:  of each trunk. 0: n free rollouts, exactly `policy.rollout`
    positions: how many of the least sure positions are drawn from; None: all eligible ones alike, whatever their entropy
    shortest:  least characters, blanks at its ends not counted, of a token that may be resampled. Actions that are shown as one
               letter (a small alphabet, a table) need 1; what is not shown as tokens at all is always eligible
    skip:      tokens, as shown, that may not be resampled: separators, special tokens
    eligible:  a function of the trunks that says where [N, T] they may be left, in place of `shortest` and `skip`

    The first position is never eligible, nor one at which the policy did not act. A trunk without an eligible position is sampled
    anew from its start. Ties in entropy go to the earlier position. The entropy is that of the policy as it acts, at the same
    temperature. Branches of one trunk share a prefix, so the group is no set of independent rollouts of the start, and its mean no
    unbiased estimate of the start's value. Every branch costs only what follows its position.

    The paper's second stage is a run of its own: free rollouts, from the weights that this one ends with.
    Raises ValueError unless n is a multiple of 1 + branches, for negative branches, and positions below 1.

    >>> from payoff.catalogue import find
    >>> policy = find("tabular", "policy")(2, 4)
    >>> traj = critical_resampling(policy, [Start("a", {})], 8, torch.Generator().manual_seed(0), shortest=1)
    >>> len(traj), len(traj.group.unique()), (traj.parent < 0).sum().item(), (traj.fork[traj.parent >= 0] > 0).all().item()
    (8, 1, 2, True)
    """
    if branches < 0 or (positions is not None and positions < 1):
        raise ValueError(f"cure: branches must be at least 0 and positions at least 1, got {branches} and {positions}")
    if n < 1 or n % (1 + branches):
        raise ValueError(
            f"cure: the n rollouts of a start are trunks with {branches} branches each, so n must be a multiple of "
            f"{1 + branches}, got {n}"
        )
    trunks = policy.rollout(starts, n // (1 + branches), rng)
    if not branches:
        return trunks
    with torch.no_grad():
        entropy = policy.evaluate(trunks, frozenset({"entropy"})).more["entropy"]
    allowed = worded(trunks, shortest=shortest, skip=skip) if eligible is None else eligible(trunks)
    at = critical_positions(entropy, allowed & trunks.own, positions, rng)
    everyone = torch.arange(len(trunks), device=trunks.device)
    return concatenate([trunks, policy.resume(trunks, everyone, at, branches, rng)])


def critical_positions(
    entropy: Float[Tensor, "N T"], allowed: Bool[Tensor, "N T"], positions: int | None, rng: torch.Generator
) -> Int[Tensor, " N"]:
    """For every row one of its `positions` allowed positions of the highest entropy, drawn evenly; 0 where none is allowed.

    Position 0 is never allowed; ties go to the earlier position. What is not allowed is not read. positions None: all of them.

    >>> entropy = torch.tensor([[9.0, 0.1, 0.7, 0.2], [9.0, 0.1, 0.2, 0.3]])
    >>> allowed = torch.tensor([[True] * 4, [True, False, False, False]])
    >>> critical_positions(entropy, allowed, 1, torch.Generator())
    tensor([2, 0])
    """
    allowed = allowed.clone()
    allowed[:, :1] = False
    order = torch.where(allowed, entropy, -torch.inf).argsort(dim=1, descending=True, stable=True)
    choices = allowed.sum(1) if positions is None else allowed.sum(1).clamp(max=positions)
    draw = torch.rand(len(entropy), generator=rng, dtype=torch.float64, device=rng.device).to(entropy.device)
    pick = (draw * choices).long().clamp(max=allowed.shape[1] - 1)
    return torch.where(choices > 0, order.gather(1, pick[:, None])[:, 0], 0)


def worded(traj: Trajectories, *, shortest: int = 2, skip: Sequence[str] = ()) -> Bool[Tensor, "N T"]:
    """Where an action is shown as a token of at least `shortest` characters between its blanks, and not as one of `skip`.

    Every position that exists where an item has no "tokens".

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> traj = traj.replace(items=[{"tokens": [" so", ",", "then"][: int(n)]} for n in traj.length])
    >>> worded(traj).int()
    tensor([[1, 0, 1],
            [1, 0, 0],
            [1, 0, 1],
            [1, 0, 0]], dtype=torch.int32)
    """
    result = traj.exists.clone().cpu()
    for row, item in enumerate(traj.items):
        if "tokens" in item:
            said = [len(token.strip()) >= shortest and token not in skip for token in item["tokens"]]
            result[row, : len(said)] &= torch.tensor(said, dtype=torch.bool)
    return result.to(traj.device)
