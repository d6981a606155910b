"""What is completed, times how well it was done, until a mistake ends it: a simple reward in place of a sum of shaped terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn.functional import pad

from payoff.catalogue import method
from payoff.pipeline import merge_reasons
from payoff.shaping.potentials import progress
from payoff.trajectories import Channel, Rewards, Trajectories


@method("carl-simple-reward", kind="shaping", paper="arXiv:2504.17838")
def simple_reward(
    rewards: Rewards,
    traj: Trajectories,
    *,
    completion: str = "completion",
    soft: Sequence[str] = (),
    hard: Mapping[str, float] | None = None,
    initial: float = 0.0,
    into: str = "simple",
) -> Rewards:
    """Add a channel that pays what each step completes, scaled down by how well it was done (CaRL).

    r_t = (completion_t - completion_(t-1)) prod_m p_m,t - T_t.
    completion: how much is done after each step, never decreasing (0 to 100 in the paper), at the step's last position
    soft:       channels of factors p_m,t in [0, 1], at every position of a step or at its last one
    hard:       channels that are positive at the step of a hard infraction, each with the penalty T_t it costs there (1 for a
                collision or a red light in the paper, 0 for the others). The step of the first one completes nothing, and nothing
                is paid after it, as if the episode had ended there: let the environment end it too
    initial:    the completion before the first step

    Paid at the end of each step. Undisturbed, it adds up to the last completion; no trajectory gets more; a soft factor never
    changes a sign; a hard infraction at completion x costs all that was left, and the penalty. Standing still earns 0.
    Finishing is worth nothing extra: let it be a truncation or an end, but let a hard infraction be an end (`StopReason.finished`),
    or the critic's value of the state after it takes the loss back. Factors that linger (`linger`) must be visible to the policy.

    Unknown where any part is. Raises ValueError for factors outside [0, 1], a completion that decreases and when `into` is taken,
    KeyError for a channel nobody gives.

    >>> from payoff.examples import four_answers
    >>> sure = torch.ones(4, 1, dtype=torch.bool)
    >>> rewards = {"completion": Channel(torch.tensor([[10.0, 40.0, 100.0]] * 4), sure),
    ...            "in_lane": Channel(torch.tensor([[1.0, 0.5, 1.0]] * 4), sure),
    ...            "collision": Channel(torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), sure)}
    >>> simple_reward(rewards, four_answers(), soft=["in_lane"], hard={"collision": 1.0})["simple"].value
    tensor([[10., 15., 60.],
            [10., -1.,  0.],
            [10., 15., 60.],
            [10.,  0.,  0.]])
    """
    hard = hard or {}
    if into in rewards:
        raise ValueError(f"carl-simple-reward: there already is a reward channel {into!r}; choose another name")
    if lost := [name for name in (completion, *soft, *hard) if name not in rewards]:
        raise KeyError(f"carl-simple-reward: no reward channel {lost[0]!r}; there are {sorted(rewards)}")
    shape, exists = traj.mask.shape, traj.exists
    gained = progress(rewards[completion], traj, initial=initial)
    value, valid = gained.value.expand(shape), gained.valid.expand(shape)
    ends = exists & (traj.step != pad(traj.step[:, 1:], (0, 1), value=-1))
    if (value < -1e-5).any():
        row = int((value < -1e-5).any(1).nonzero()[0, 0])
        raise ValueError(f"carl-simple-reward: {completion!r} decreases in trajectory {int(traj.id[row])}")
    for name in soft:
        factor, known = rewards[name].value.expand(shape), rewards[name].valid.expand(shape)
        read = ends & known
        if (read & ((factor < 0) | (factor > 1))).any():
            raise ValueError(f"carl-simple-reward: the factors {name!r} must lie in [0, 1]")
        value, valid = value * torch.where(read, factor, 0), valid & (known | ~ends)
    struck, penalty = torch.zeros_like(exists), torch.zeros_like(value)
    for name, cost in hard.items():
        flag, known = rewards[name].value.expand(shape), rewards[name].valid.expand(shape)
        hit = exists & known & (flag > 0)
        struck, penalty, valid = struck | hit, penalty + cost * hit, valid & (known | ~exists)
    # One step, one verdict: an infraction anywhere in a step is that step's, at whose end it is charged.
    index = traj.step.clamp(min=0).long()
    steps = int(traj.step.max()) + 1 if traj.step.numel() else 1
    in_step = torch.zeros(len(traj), steps, device=traj.device).scatter_reduce(1, index, struck.float(), "amax")
    charged = penalty.new_zeros(len(traj), steps).scatter_reduce(1, index, penalty, "amax")
    before = torch.cat([torch.zeros_like(in_step[:, :1]), in_step[:, :-1]], 1).cummax(1).values.gather(1, index) > 0
    value = torch.where(in_step.gather(1, index) > 0, 0, value) - torch.where(ends, charged.gather(1, index), 0)
    valid = valid | before  # what follows the end is worth nothing, known or not
    paid = torch.where(exists & valid & ~before, value, 0)
    parts = [rewards[name] for name in (completion, *soft, *hard)]
    return {**rewards, into: Channel(paid, valid, merge_reasons(parts))}


@method("linger", kind="shaping", paper="arXiv:2504.17838")
def linger(channel: Channel, traj: Trajectories, *, steps: int = 500) -> Channel:
    """Keep a low factor for a while: the least of the last `steps` positions, this one included (CaRL: comfort, time to collision).

    steps 1 changes nothing. Unknown where any of these positions is. Raises ValueError for steps below 1.

    >>> from payoff.examples import four_answers
    >>> factor = Channel(torch.tensor([[0.5, 1.0, 1.0]] * 4), torch.ones(4, 1, dtype=torch.bool))
    >>> linger(factor, four_answers(), steps=2).value[0]
    tensor([0.5000, 0.5000, 1.0000])
    """
    if steps < 1:
        raise ValueError(f"linger: steps must be at least 1, got {steps}")
    exists = traj.exists
    known = channel.valid.expand(traj.mask.shape) | ~exists
    reach = min(steps, traj.width)
    least = lambda x, fill: pad(x, (reach - 1, 0), value=fill).unfold(1, reach, 1).amin(2)
    lowest = least(torch.where(exists & known, channel.value.expand(traj.mask.shape), torch.inf), torch.inf)
    valid = least(known.float(), 1.0) > 0
    return Channel(torch.where(exists & valid, lowest, 0), valid, channel.reasons)
