"""Credit of the reference's tokens, where the reward is how likely they are: the derivative of the reward."""

from __future__ import annotations

from typing import Literal

import torch

from payoff.catalogue import method
from payoff.sets import sets, sums
from payoff.trajectories import Channel, Trajectories

Form = Literal["log", "mean-log", "probability", "mean-probability", "group"]


@method("reward-gradient", kind="credit", paper="arXiv:2602.03979", needs=("old",), sees="group")
def reward_gradient(channel: Channel, traj: Trajectories, *, form: Form = "log") -> Channel:
    """Weigh the tokens of the reference by dR / dl_j: the term of the gradient that goes through the reward `likelihood-rewards`.

    With l_j = logp["old"] of the reference's tokens, j = 1..A, in the rows that the replay `likelihood-rewards` adds:
    "log" (R = sum_j l_j): 1, which is learning the reference by heart; "mean-log": 1 / A;
    "probability" (R = exp(sum_j l_j)): R; "mean-probability" (R = mean_j exp(l_j)): exp(l_j) / A;
    "group" (advantage `likelihood-rewards`: the log of the group's mean likelihood): exp(sum_j l_j) as a share of the group's.

    A term of its own beside that of the reasoning, with `policy-gradient` and `sequence-mean-token-sum` in both: grad E[R] is then
    their sum, exactly. The other term needs the reward as it is, less a baseline: an advantage that divides by a spread changes the
    weight of one against the other. Channel is not read: any that exists names the path. Unknown, and 0, everywhere but there.

    [N, T]. Raises ValueError without extras["reference"] [N] or traj.logp["old"], and for an unknown form.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> half, marked = torch.full((4, 3), 0.5).log(), torch.tensor([True, False, True, False])
    >>> traj = traj.replace(extras={"reference": marked}, logp={"old": half})
    >>> nothing = Channel(torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.bool))
    >>> reward_gradient(nothing, traj, form="probability").value
    tensor([[0.1250, 0.1250, 0.1250],
            [0.0000, 0.0000, 0.0000],
            [0.1250, 0.1250, 0.1250],
            [0.0000, 0.0000, 0.0000]])
    """
    marked = traj.extras.get("reference")
    if marked is None or marked.dtype != torch.bool or "old" not in traj.logp:
        raise ValueError(
            'reward-gradient: needs traj.logp["old"] and extras["reference"], which rows end with the reference; '
            "the replay likelihood-rewards adds such rows"
        )
    here = traj.own & marked[:, None]
    logp = torch.where(here, traj.logp["old"], 0).double()
    count, whole = here.sum(1, keepdim=True).clamp(min=1), logp.sum(1, keepdim=True)
    if form == "log":
        value = torch.ones_like(logp)
    elif form == "mean-log":
        value = (1 / count.double()).expand_as(logp)
    elif form == "probability":
        value = whole.exp().expand_as(logp)
    elif form == "mean-probability":
        value = logp.exp() / count
    elif form == "group":
        value = _shares(whole[:, 0], here.any(1), traj)[:, None].expand_as(logp)
    else:
        raise ValueError(f"reward-gradient: unknown form {form!r}")
    return Channel(torch.where(here, value, 0).to(channel.value.dtype), here)


def _shares(logp: torch.Tensor, known: torch.Tensor, traj: Trajectories) -> torch.Tensor:
    """exp(logp) as a share of the group's, where known; from the group's greatest, so that nothing is lost to rounding."""
    key = sets(traj, "group")[:, 0].unique(return_inverse=True)[1]
    low = torch.where(known, logp, -torch.inf)
    high = torch.full_like(low, -torch.inf).scatter_reduce(0, key, low, "amax")[key]
    part = torch.where(known, (logp - torch.where(known, high, 0)).exp(), 0)
    return part / sums(part, key).clamp(min=1e-300)
