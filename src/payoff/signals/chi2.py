"""The chi-squared divergence from a reference as a reward: what bounds the truth behind a correlated proxy, where KL does not."""

from __future__ import annotations

from typing import Literal

import torch

from payoff.catalogue import method
from payoff.sets import sets, statistics
from payoff.trajectories import Rewards, Trajectories, log_ratio, place_outcome

_FARTHEST = 20.0  # nats; a ratio beyond exp(20) is one answer outweighing every other


@method("correlated-proxies", kind="signal", paper="arXiv:2403.03185", needs=("old", "ref"), sees="batch")
def chi2_penalty(traj: Trajectories, *, form: Literal["chi2", "sqrt-chi2"] = "sqrt-chi2", trim: float = 0.01) -> Rewards:
    """Minus the chi-squared divergence of whole answers from the reference, paid at the end, as the channel "chi2".

    With rho = pi_old / pi_ref of the whole sequence, chi2 = E_pi[rho] - 1:
    chi2:      -(rho - 1). The mean is -chi2; its policy gradient, rho being a constant, is that of -chi2 / 2
    sqrt-chi2: -(rho - 1) / sqrt(c), c the mean of rho - 1 over the batch without the `trim` greatest and least of its numbers (none
               of them where that is less than one). With c = chi2 its policy gradient is exactly that of -sqrt(chi2). Where c <= 0
               nothing is divided

    A proxy that correlates with the truth by r under the reference gains in truth at least what its own gain leaves after
    sqrt((1 - r^2) chi2), both in standard deviations: so sqrt-chi2 with the weight std(proxy) sqrt(1 - r^2) climbs a lower bound.
    The log-ratio is cut at 20 nats. Trajectories that acted nowhere get 0.

    Raises ValueError for another form, a trim outside [0, 1/2), and without traj.logp["old"] and ["ref"].

    >>> from payoff.examples import four_answers
    >>> [round(x, 3) for x in chi2_penalty(four_answers(), form="chi2")["chi2"].value.sum(1).tolist()]
    [-3.482, -1.718, -3.482, -0.649]
    """
    if form not in ("chi2", "sqrt-chi2"):
        raise ValueError(f'chi2_penalty: form must be "chi2" or "sqrt-chi2", got {form!r}')
    if not 0 <= trim < 0.5:
        raise ValueError(f"chi2_penalty: trim must lie in 0 <= trim < 0.5, got {trim}")
    if lost := [name for name in ("old", "ref") if name not in traj.logp]:
        raise ValueError(f"chi2_penalty: needs traj.logp[{lost[0]!r}]")
    far = log_ratio(traj.logp["old"], traj.logp["ref"], traj).detach().sum(1).clamp(max=_FARTHEST)
    excess = torch.expm1(far)
    if form == "sqrt-chi2":
        batch = sets(traj, "batch")[:, 0]
        mean = statistics(excess, batch, _without_ends(excess, batch, trim)).mean
        excess = excess / torch.where(mean > 0, mean, 1).sqrt().to(excess.dtype)
    return {"chi2": place_outcome(-excess, torch.ones_like(excess, dtype=torch.bool), traj)}


def _without_ends(x: torch.Tensor, key: torch.Tensor, trim: float) -> torch.Tensor:
    """Which numbers are not among the int(trim n) greatest or least of their set of n."""
    order = x.argsort(stable=True)
    order = order[key[order].argsort(stable=True)]
    dense = key.unique(return_inverse=True)[1]
    size = torch.bincount(dense)
    first = size.cumsum(0) - size
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(x), device=x.device)) - first[dense]
    cut = (trim * size).long()[dense]
    return (place >= cut) & (place < size[dense] - cut)
