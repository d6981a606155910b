"""Credit by the worst step: payments reweighed so that their sum is nearly the least of them."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories, per_step, spread_steps


@method("pure", kind="credit", paper="arXiv:2504.15275", pays=True)
def soft_min(process: Channel, traj: Trajectories, *, temperature: float = 0.1) -> Channel:
    """Weigh each step's reward by how near it is to the worst one (PURE, eq. 5-6).

    p*_k = softmax_k(-p_k / temperature) p_k, paid where p_k was paid; follow it with `return_to_go`.
    sum_k p*_k -> min_k p_k as temperature -> 0, so a policy gains nothing by adding steps that merely look good; -> the mean as
    temperature -> infinity (which may be given).

    [N, T]. The paper's scores lie in [-1, 1]; another range is another temperature. Every step that exists counts, one paid 0
    included; a trajectory with an invalid step is invalid throughout. One step: p* = p. Equal steps share the weight.
    Raises ValueError for temperature <= 0.

    >>> from payoff.examples import four_answers
    >>> scores = Channel(torch.tensor([[0.5, -0.2, 0.8]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> soft_min(scores, four_answers()).value.sum(1)
    tensor([-0.1993, -0.1994, -0.1993,  0.5000])
    """
    if not temperature > 0:
        raise ValueError(f"soft_min: temperature must be > 0, got {temperature}")
    score, exists, known = per_step(process, traj)
    weight = torch.where(exists, -score.double() / temperature, -torch.inf).softmax(1).to(process.value.dtype)
    valid = (known | ~exists).all(1, keepdim=True)
    paid = torch.where(valid & traj.exists, process.value, 0)
    return Channel(paid * spread_steps(weight, traj), valid, process.reasons)
