"""Beam search over steps: of the ways to go on, those that a value, and a prover's progress, hold for the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Policy, Start
from payoff.search.one_step import Value, step_on
from payoff.trajectories import Trajectories, concatenate


class Beam(NamedTuple):
    """The best finished rollout of every start, in their order, what it was kept by, and how many steps were drawn in all."""

    traj: Trajectories
    score: Float[Tensor, " B"]
    proposed: int


@method("pav", kind="search", paper="arXiv:2410.08146")
def step_beam(
    policy: Policy,
    starts: Sequence[Start],
    value: Value,
    rng: torch.Generator,
    *,
    prover: Value | None = None,
    alpha: float = 0.5,
    width: int = 4,
    proposals: int = 4,
    steps: int = 64,
    horizon: int | None = None,
) -> Beam:
    """Keep the `width` prefixes with the largest Q(s, a) + alpha A(s, a), one step after another (process advantage verifier).

    Q(s, a) is the value of the prefix a step longer and A(s, a) = V(that) - V(before) the progress of a prover. Each kept prefix
    gets `proposals` steps; those that are over compete with the score they ended with.

    value:  what a prefix is worth, of (trajectories, at): the policy's own chance to end rightly in the paper
    prover: the chance of another policy; None: no second part, plain beam search by value
    width:  1: the best of `proposals` at every step (the best-of-N over steps of hierarchical reward models)
    steps:  at most; what is not over then is carried to its end by the policy
    horizon: most actions of a step, see `payoff.search.one_step.step_on`

    Beams of all starts go in step. Raises ValueError for no starts and for counts below 1.

    >>> from payoff.policies.tabular import Tabular
    >>> def count_b(traj, at):
    ...     return ((traj.actions == 1) & (torch.arange(traj.width) < at[:, None])).sum(1) / 3
    >>> found = step_beam(Tabular(2, 3), [Start("s", {})], count_b, torch.Generator().manual_seed(0))
    >>> found.traj.items[0]["response"], found.proposed
    ('bbb', 36)
    """
    for name, count in (("starts", len(starts)), ("width", width), ("proposals", proposals), ("steps", steps)):
        if count < 1:
            raise ValueError(f"step_beam: {name} must be at least 1, got {count}")
    traj = policy.rollout(starts, 1, rng)
    at = torch.zeros_like(traj.length)
    over = torch.zeros_like(at, dtype=torch.bool)
    score = torch.zeros(len(starts), dtype=torch.float64, device=traj.device)
    start = torch.arange(len(starts), device=traj.device)
    proposed = 0
    for _ in range(steps):
        going = (~over).nonzero()[:, 0]
        if not len(going):
            break
        some = traj.select(going)
        found = step_on(policy, some, at[going], proposals, rng, horizon=horizon)
        proposed += len(found.at)
        worth = value(found.traj, found.at).double()
        if prover is not None:
            before = prover(some, at[going]).double().repeat_interleave(proposals)
            worth = worth + alpha * (prover(found.traj, found.at).double() - before)
        done = over.nonzero()[:, 0]
        traj = concatenate([traj.select(done), found.traj]) if len(done) else found.traj
        at, over = torch.cat([at[done], found.at]), torch.cat([over[done], found.over])
        score = torch.cat([score[done], worth.to(score.device)])
        start = torch.cat([start[done], start[going].repeat_interleave(proposals)])
        kept = _best(score, start, width)
        traj, at, over, score, start = traj.select(kept), at[kept], over[kept], score[kept], start[kept]
    first = _best(score, start, 1)
    return Beam(_finished(policy, traj.select(first), at[first], over[first], rng), score[first], proposed)


def _best(score: Float[Tensor, " N"], start: Int[Tensor, " N"], width: int) -> Int[Tensor, " M"]:
    """The rows with the `width` largest scores of every start, start after start; of equal ones the earlier."""
    order = score.argsort(descending=True, stable=True)
    order = order[start[order].argsort(stable=True)]
    sizes = torch.bincount(start)
    first = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)[:-1]])
    place = torch.arange(len(order), device=order.device) - first[start[order]]
    return order[place < width]


def _finished(policy: Policy, traj: Trajectories, at: Tensor, over: Tensor, rng: torch.Generator) -> Trajectories:
    """Every prefix as a whole rollout."""
    going = (~over).nonzero()[:, 0]
    if not len(going):
        return traj
    done = over.nonzero()[:, 0]
    longer = policy.resume(traj, going, at[going], 1, rng)
    if not len(done):
        return longer
    return concatenate([traj.select(done), longer]).select(torch.cat([done, going]).argsort())
