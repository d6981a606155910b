"""One reward of a whole trajectory shared out among its steps, by how much each of them mattered."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories, outcome, per_step, place_steps


@method("revibranch", kind="credit", paper="arXiv:2508.17452", pays=True)
def redistributed(
    channel: Channel, traj: Trajectories, *, importance: str | None = "importance", temperature: float = 1.0
) -> Channel:
    """Share the whole reward out among the steps that acted, by a softmax of their importance (ReviBranch; our reading of it).

    r_k = w_k R, w = softmax over the trajectory's own steps of e_k / temperature, R all that it was paid, e_k the sum of
    extras[importance] over the own actions of step k: what `branching` records as "bound_gain", or the scores of any model.
    importance None: equal shares, R / K.

    sum_k r_k = R up to rounding. Equal scores are equal shares, temperature -> 0 gives all to the greatest score (ties share), and
    one step gets R. Paid at the last position of each step, and still a reward: follow it with `return-to-go`. It is no potential
    shaping, so the best policy may change; and scores that saw the end let a step's pay depend on what came later.

    [N, T]. A trajectory with an unknown payment is unknown; so is one whose own scores are not finite. One that never acted is paid
    where it was. Raises ValueError for temperature <= 0, and extras that are not there or not [N, T].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"importance": torch.tensor([[0.0, 3.0, 0.0]]).log1p().repeat(4, 1)})
    >>> paid = Channel(torch.tensor([[0.0, 0.0, 6.0], [0.0, 5.0, 0.0], [6.0, 0.0, 0.0], [2.0, 0.0, 0.0]]), traj.exists)
    >>> redistributed(paid, traj).value.tolist()
    [[1.0, 4.0, 1.0], [1.0, 4.0, 0.0], [1.0, 4.0, 1.0], [2.0, 0.0, 0.0]]
    """
    if not temperature > 0:
        raise ValueError(f"redistributed: temperature must be > 0, got {temperature}")
    total, known = outcome(channel, traj)
    acted = torch.where(traj.mask, 1.0, 0.0)
    always = torch.ones_like(traj.mask[:, :1])
    acts = per_step(Channel(acted, always), traj)[0] > 0
    if importance is None:
        score = torch.zeros(acts.shape, dtype=torch.float64, device=traj.device)
    else:
        given = traj.extras.get(importance)
        if given is None or given.shape != traj.mask.shape:
            found = "none" if given is None else f"shape {list(given.shape)}"
            raise ValueError(f"redistributed: needs extras[{importance!r}] [N, T] = {list(traj.mask.shape)}, found {found}")
        own = torch.where(traj.mask, given.detach().double(), 0)
        known = known & own.isfinite().all(1)
        score = per_step(Channel(torch.where(own.isfinite(), own, 0), always), traj)[0]
    # From the greatest of a trajectory, before the division: a temperature near 0 then gives 0 or -infinity, and no NaN.
    top = torch.where(acts, score, -torch.inf).amax(1, keepdim=True)
    away = torch.where(acts, score - torch.where(top > -torch.inf, top, 0), -torch.inf) / temperature
    share = torch.where(acts, away.exp(), 0)
    share = share / share.sum(1, keepdim=True).clamp(min=1e-300)
    paid = (share * total.double()[:, None]).to(channel.value.dtype)
    placed = place_steps(paid, torch.ones_like(acts), traj)
    value = torch.where(acts.any(1, keepdim=True), placed.value, torch.where(channel.valid & traj.exists, channel.value, 0))
    return Channel(torch.where(known[:, None], value, 0), known[:, None], channel.reasons)
