"""One greedy rollout of every start beside the sampled ones: a baseline that is no sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from payoff.catalogue import method
from payoff.pipeline import Policy, Start
from payoff.trajectories import Trajectories, concatenate


@method("remax", kind="sampler", paper="arXiv:2310.10505")
def greedy_beside(policy: Policy, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
    """n rollouts of every start and, in the same group, its greedy one: what the advantage `remax` subtracts (ReMax).

    extras["greedy"] [N] is 1 at the greedy rollouts. They are scored like all others, act nowhere (their mask is False), and are
    no samples: the advantage leaves them without a verdict. A start costs n + 1 rollouts. What is greedy is the policy's own
    deterministic continuation, `resume` with noisy=0.

    >>> from payoff.policies.tabular import Tabular
    >>> traj = greedy_beside(Tabular(2, 3), [Start("a", {}), Start("b", {})], 2, torch.Generator().manual_seed(0))
    >>> traj.extras["greedy"].tolist(), traj.mask[4:].any().item(), len(traj.group.unique())
    ([0, 0, 0, 0, 1, 1], False, 2)
    """
    sampled = policy.rollout(starts, n, rng)
    group = sampled.group.unique(return_inverse=True)[1]
    row = torch.arange(len(sampled), device=sampled.device)
    first = torch.full((int(group.max()) + 1 if len(group) else 0,), len(sampled), device=sampled.device)
    first = first.scatter_reduce(0, group, row, "amin")
    greedy = policy.resume(sampled, first, torch.zeros_like(first), 1, rng, noisy=0)
    mark = lambda traj, value: traj.replace(extras={"greedy": torch.full((len(traj),), value, device=traj.device)})
    return concatenate([mark(sampled, 0), mark(greedy, 1)])
