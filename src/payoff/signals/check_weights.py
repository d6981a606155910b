"""Partial success on many checks, in which the hard ones count more and many alike count once (VeRPO)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method
from payoff.trajectories import Rewards, Trajectories, place_outcome, place_steps


@method("verpo", kind="signal", paper="arXiv:2601.03525", sees="group")
def weighted_checks(
    traj: Trajectories,
    *,
    bandwidth: float = 0.1,
    difficulty: float = 2.0,
    floor: float = 1e-6,
    discount: float = 0.95,
) -> Rewards:
    """Pay each turn for the checks it passes, by how hard and how alike they are, and each trajectory for passing them all (VeRPO).

    Channel "verpo-turns": sum_u w_u p_ku at the end of turn k, with w_u = exp(-difficulty rho_u) / (N(rho_u) + floor): rho_u is the
    share of all (trajectory, turn) pairs of the group that pass check u, N(rho_u) = sum_v exp(-(rho_u - rho_v)^2 / (2 bandwidth^2))
    how many checks are about as hard. Channel "verpo-outcome": discount^turns where the last turn passes all checks, else 0.

    Items hold `checks`, for every turn (step) one list of true and false, as long for all of a group; of one turn, the list itself.
    As in the paper the two are centred apart over the group and then added, without a standard deviation: `immediate` with a mean
    baseline for the turns. bandwidth, difficulty, floor and discount are the paper's sigma, alpha, delta and gamma, whose values
    are not published; these are only sensible.

    m copies of a check weigh together w m / (m + floor), hardly more than one: with plain shares many easy look-alikes would rule.
    A check nobody passes has the greatest weight and pays nothing. Weights move with the policy: do not compare over batches, and
    do not trust them in a small group. Range 0 .. number of distinct difficulties or so. Gamed by special-casing visible checks.
    No verdict, and no part in the weights, for a row without checks, with as many turns as it has not steps, or of another length
    than the first of its group. Raises ValueError for a bandwidth or floor that is not positive or a discount outside 0..1.

    >>> from payoff.rows import from_rows
    >>> rows = [{"prompt": "p", "response": "", "checks": checks} for checks in ([1, 1, 0], [1, 1, 1])]
    >>> rewards = weighted_checks(from_rows(rows))
    >>> rewards["verpo-turns"].value.flatten(), rewards["verpo-outcome"].value.flatten()
    (tensor([0.1353, 0.5032]), tensor([0.0000, 0.9500]))
    """
    if not bandwidth > 0 or not floor > 0 or not 0 <= discount <= 1:
        raise ValueError(
            f"weighted_checks: bandwidth and floor must be positive and discount in 0..1, got {bandwidth}, {floor} and {discount}"
        )
    steps = (traj.step.amax(1) + 1).tolist()
    value = torch.zeros(len(traj), max(steps, default=1), dtype=torch.float64)
    outcome, known = torch.zeros(len(traj), dtype=torch.float64), torch.zeros(len(traj), dtype=torch.bool)
    reasons: dict[int, str] = {}
    members: dict[int, list[tuple[int, Tensor]]] = {}
    for row, (id, group) in enumerate(zip(traj.id.tolist(), traj.group.tolist(), strict=True)):
        passed = _table(traj.items[row].get("checks") if traj.items else None, steps[row])
        others = members.setdefault(group, [])
        if passed is None:
            reasons[id] = f"no `checks` with one list of true and false for each of {steps[row]} turns"
        elif others and others[0][1].shape[1] != passed.shape[1]:
            reasons[id] = f"{passed.shape[1]} checks, where the group has {others[0][1].shape[1]}"
        else:
            others.append((row, passed))
    for rows in members.values():
        if not rows:
            continue
        weight = check_weights(torch.cat([passed for _, passed in rows]).mean(0), bandwidth, difficulty, floor)
        for row, passed in rows:
            value[row, : len(passed)] = passed @ weight
            outcome[row] = discount ** len(passed) * float(passed[-1].all())
            known[row] = True
    dtype, device = torch.get_default_dtype(), traj.device
    sure = known.to(device)
    return {
        "verpo-turns": place_steps(value.to(device, dtype), sure[:, None].expand(value.shape), traj, reasons),
        "verpo-outcome": place_outcome(outcome.to(device, dtype), sure, traj, reasons),
    }


def check_weights(passing: Float[Tensor, " U"], bandwidth: float, difficulty: float, floor: float) -> Float[Tensor, " U"]:
    """exp(-difficulty rho_u) / (sum_v exp(-(rho_u - rho_v)^2 / (2 bandwidth^2)) + floor).

    >>> check_weights(torch.tensor([0.0, 1.0, 1.0]), 0.1, 0.0, 1e-9)
    tensor([1.0000, 0.5000, 0.5000])
    """
    # Only distinct rates are compared, so that thousands of checks cost no square of their number.
    rates, of, count = passing.unique(return_inverse=True, return_counts=True)
    near = torch.exp(-((rates[:, None] - rates[None]) ** 2) / (2 * bandwidth**2)) @ count.to(rates.dtype)
    return (torch.exp(-difficulty * rates) / (near + floor))[of]


def _table(checks: Any, turns: int) -> Tensor | None:
    """Checks as 0 and 1 [turns, U]; None for anything else."""
    if not isinstance(checks, Sequence) or isinstance(checks, str) or not len(checks):
        return None
    if not isinstance(checks[0], Sequence):
        checks = [checks]
    if len(checks) != turns or any(not isinstance(turn, Sequence) or len(turn) != len(checks[0]) for turn in checks):
        return None
    if not len(checks[0]) or any(x not in (0, 1) for turn in checks for x in turn):
        return None
    return torch.tensor([[float(x) for x in turn] for turn in checks], dtype=torch.float64)
