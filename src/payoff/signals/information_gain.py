"""What each turn told about the answer: how much likelier it made the reference, as recorded beside the rollout."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from payoff.catalogue import method
from payoff.trajectories import Channel, Rewards, Trajectories, per_step, place_steps


@method("igpo", kind="signal", paper="arXiv:2510.14967")
def information_gain(traj: Trajectories, *, reference: str = "reference_logp") -> Rewards:
    """Pay every turn but the last what it added to the policy's belief in the reference answer (IGPO), channel "gain".

    r_k = p_k - p_(k-1), p_k = exp(mean_j log pi(reference token j | everything up to the end of turn k)), a turn being a step; p_0
    is the belief before anything was done. The last turn gives the answer and is paid nothing here: add the outcome as a channel of
    its own. All gains add up to p_(K-1) - p_0, and a turn that tells nothing is paid exactly 0.

    reference: the name in traj.extras of the reference's log-probabilities in the state before each action, index `length` for the
               final one: of every token [N, T+1, A], NaN for tokens that this reference does not have; or their mean [N, T+1].
               Only the first state and those in which turns end are read. Take the policy that acted, in the answer's own template

    Credited to the end, gain plus outcome is (what came out and the belief before the last turn) less the belief before this turn:
    it climbs exactly E[outcome + p_(K-1)], so the belief is also wanted for itself. With right beliefs and observations drawn
    given the true answer no turn is expected to lose: r is on average p_(k-1) chi2(P(o | answer), P(o)).

    Turns without a belief before or after them (NaN) are unknown. One turn: 0. Raises ValueError for extras that are not there or
    of another shape, and for a log-probability above 0.

    >>> from payoff.examples import four_answers
    >>> belief = torch.tensor([[0.25, 0.25, 0.75, 0.5]]).repeat(4, 1)
    >>> information_gain(four_answers().replace(extras={"reference_logp": belief.log()}))["gain"].value
    tensor([[0.0000, 0.5000, 0.0000],
            [0.0000, 0.0000, 0.0000],
            [0.0000, 0.5000, 0.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    logp = traj.extras.get(reference)
    if logp is None or logp.ndim not in (2, 3) or logp.shape[:2] != (len(traj), traj.width + 1):
        found = "none" if logp is None else f"shape {list(logp.shape)}"
        raise ValueError(
            f"information_gain: needs extras[{reference!r}] of shape [N, T+1] = [{len(traj)}, {traj.width + 1}] or [N, T+1, A], "
            f"found {found}"
        )
    ends = traj.exists & (pad(traj.step[:, 1:], (0, 1), value=-1) != traj.step)
    read = pad(ends, (1, 0), value=True)
    logp = (logp if logp.ndim == 3 else logp[:, :, None]).detach()
    here = ~logp.isnan() & read[:, :, None]
    logp = torch.where(here, logp, 0)
    if (logp > 1e-6).any():
        raise ValueError(f"information_gain: log-probabilities must be at most 0, got {float(logp.max())}")
    count = here.sum(2)
    belief = torch.where(count > 0, (logp.sum(2) / count.clamp(min=1)).exp(), 0)
    known = (count > 0) | ~read
    after, exists, told = per_step(Channel(torch.where(ends, belief[:, 1:], 0), known[:, 1:]), traj, "last")
    before = torch.cat([belief[:, :1], after[:, :-1]], 1)
    told_before = torch.cat([known[:, :1], told[:, :-1]], 1)
    last = exists & ~pad(exists[:, 1:], (0, 1))
    gain = torch.where(last, 0, after - before)
    return {"gain": place_steps(gain, last | (told & told_before), traj)}
