"""From what prefixes are worth to what each action added: rewards that telescope to the outcome they replace."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.trajectories import Channel, StopReason, Trajectories, per_step, prefix_gains


@method("fl-gfn", kind="credit", paper="arXiv:2302.01687", pays=True)
def forward_looking(channel: Channel, traj: Trajectories, *, prefixes: str = "log_reward") -> Channel:
    """Pay what each action added to the log-reward of the unfinished object, and at the end what is left (FL-GFN, eq. 8).

    C_t = r_t + E_t - E_(t+1), with E = -extras[prefixes] [N, T+1], the energy of every state, taken as 0 at the start and at a
    finished end: what a finished trajectory is paid in all does not change, only when. So what is learned from it ends where it
    would have ended (potential shaping of the flow), and each action has news of its own, in trajectories cut short too.

    [N, T], valid where the channel is. It remains a reward. Prefix values that are wrong slow training down and bias nothing.
    Raises ValueError without extras[prefixes] of shape [N, T+1].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"log_reward": torch.tensor([[5.0, 1.0, 2.0, 9.0]]).repeat(4, 1)})
    >>> paid = Channel(torch.tensor([[0.0, 0.0, 4.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> forward_looking(paid, traj).value
    tensor([[ 1.,  1.,  2.],
            [ 1., -1.,  0.],
            [ 1.,  1.,  2.],
            [ 0.,  0.,  0.]])
    """
    score = traj.extras.get(prefixes)
    if score is None or score.shape != (len(traj), traj.width + 1):
        found = "none" if score is None else f"shape {list(score.shape)}"
        raise ValueError(
            f"forward_looking: needs extras[{prefixes!r}] of shape [N, T+1] = [{len(traj)}, {traj.width + 1}], found {found}"
        )
    position = torch.arange(traj.width + 1, device=traj.device)
    cut = (traj.stop == StopReason.truncated)[:, None] & (position == traj.length[:, None])
    inner = (position > 0) & ((position < traj.length[:, None]) | cut)
    gain = prefix_gains(torch.where(inner, score, 0).to(channel.value.dtype), traj)
    paid = torch.where(channel.valid & traj.exists, channel.value, 0)
    return Channel(torch.where(channel.valid, paid + gain, 0), channel.valid, channel.reasons)


@method("prm-gflownet", kind="credit", paper="arXiv:2504.19981", pays=True)
def log_step_scores(channel: Channel, traj: Trajectories, *, weight: float = 1.0, floor: float = 1e-6) -> Channel:
    """Scores of steps in [0, 1] as increments of a log-reward: weight x log max(U_k, floor), paid where U_k is (PRM-GFlowNet).

    Summed up to a step they are log R of the solution so far, weight x sum_{j <= k} log U_j: the target of the balance losses, and
    of `gflowvlm`, where every prefix can stop. A step's score is what is paid in it in all.

    [N, T], paid at the last position of each step; a step without verdict stays without. It remains a reward.
    Raises ValueError for a floor outside (0, 1], or a known score above 1 or below 0.

    >>> from payoff.examples import four_answers
    >>> scores = Channel(torch.tensor([[1.0, 0.5, 0.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> log_step_scores(scores, four_answers(), floor=0.1).value
    tensor([[ 0.0000, -0.6931, -2.3026],
            [ 0.0000, -0.6931,  0.0000],
            [ 0.0000, -0.6931, -2.3026],
            [ 0.0000,  0.0000,  0.0000]])
    """
    if not 0 < floor <= 1:
        raise ValueError(f"log_step_scores: floor must lie in (0, 1], got {floor}")
    score, here, known = per_step(channel, traj)
    odd = known & ((score < 0) | (score > 1 + 1e-6))
    if odd.any():
        raise ValueError(f"log_step_scores: scores must lie in 0..1, got {float(score[odd][0])}")
    gain = torch.where(known, weight * score.clamp(floor, 1).log(), 0)
    index = traj.step.clamp(min=0).long()
    following = torch.cat([traj.step[:, 1:], torch.full_like(traj.step[:, :1], -1)], 1)
    last = traj.exists & (following != traj.step)
    valid = channel.valid if channel.valid.shape[1] == 1 else (known | ~here).gather(1, index)
    return Channel(torch.where(last & valid, gain.gather(1, index), 0), valid, channel.reasons)
