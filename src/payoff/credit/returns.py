"""Credit by time: the whole sum, what is paid from here on, what the step itself earned, and lambda-returns of a critic."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from payoff.catalogue import method
from payoff.trajectories import Channel, StopReason, Trajectories, constant, outcome, per_step, spread_steps

_ENTRIES = 1 << 18  # summed at a time, so that the temporaries of a large batch stay in the cache


@method("total", kind="credit")
def total(channel: Channel, traj: Trajectories) -> Channel:
    """Weigh every action by all that is paid in its trajectory (REINFORCE).

    C_t = sum_k r_k over every position that exists, as one column [N, 1], so that what follows stays on [N].
    A trajectory with an unknown payment is unknown throughout.

    >>> from payoff.examples import four_answers
    >>> paid = Channel(torch.tensor([[1.0, 2.0, 3.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> total(paid, four_answers()).value
    tensor([[6.],
            [3.],
            [6.],
            [1.]])
    """
    return constant(*outcome(channel, traj), channel.reasons)


@method("return-to-go", kind="credit")
def return_to_go(
    channel: Channel,
    traj: Trajectories,
    *,
    discount: float = 1.0,
    per: Literal["position", "action", "step"] = "position",
) -> Channel:
    """Weigh every action by what is paid from it on: what was paid before it cannot be its doing.

    C_t = sum_{k >= t} discount^n(t, k) r_k, where n(t, k) counts the positions after t up to k, or with `per` only the actions
    among them (tool text costs no time), or the steps that begin there (all tokens of a step are one moment).
    With discount 1 the three agree.

    [N, T], defined wherever the trajectory exists. Known at t when everything from t on that has weight is known: a payment
    that failed costs the actions up to it their credit, and those after it nothing.
    Raises ValueError for a discount outside 0..1.

    >>> from payoff.examples import four_answers
    >>> paid = Channel(torch.tensor([[1.0, 2.0, 4.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> return_to_go(paid, four_answers(), discount=0.5).value
    tensor([[3., 4., 4.],
            [2., 2., 0.],
            [3., 4., 4.],
            [1., 0., 0.]])
    """
    _check_rate("return_to_go", "discount", discount)
    decay = None if discount == 1 else _either(_ticks(traj, per), discount, 1.0, channel.value.dtype)
    paid = torch.where(channel.valid & traj.exists, channel.value, 0)
    valid = _known_from(channel, traj, decay)
    sums = _backward_sums(paid, decay)
    return Channel(sums if valid.all() else torch.where(valid, sums, 0), valid, channel.reasons)


@method("immediate", kind="credit")
def immediate(channel: Channel, traj: Trajectories) -> Channel:
    """Weigh the actions of a step by what that step itself earned, whatever came after (a bandit in every step).

    C_t = sum of what is paid in the step of t: a payment at the end of a step weighs all actions of that step.
    This is the credit for rewards that are advantages already, such as the progress of a fixed prover (arXiv:2410.08146): summed
    up to the end they telescope to a constant minus what the past fixed, and change nothing.

    [N, T]. A step with an unknown payment is unknown, and only that one.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(step=torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]]))
    >>> paid = Channel(torch.tensor([[1.0, 2.0, 4.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> immediate(paid, traj).value
    tensor([[3., 3., 4.],
            [3., 3., 0.],
            [1., 6., 6.],
            [1., 0., 0.]])
    """
    earned, _, known = per_step(channel, traj)
    valid = channel.valid if channel.valid.shape[1] == 1 else known.gather(1, traj.step.clamp(min=0).long())
    return Channel(torch.where(valid, spread_steps(earned, traj), 0), valid, channel.reasons)


@method("lambda-return", kind="credit", paper="arXiv:1506.02438", needs=("values",))
def lambda_return(channel: Channel, traj: Trajectories, *, discount: float = 1.0, trace: float = 0.95) -> Channel:
    """Mix what is paid from here on with what a critic expects; `subtract_values` after it makes GAE (eq. 16).

    Over the actions j = 1..m of a trajectory: G_j = R_j + discount ((1 - trace) V_(j+1) + trace G_(j+1)), with
    G_(m+1) = V_(m+1) = the value of the final state where the trajectory was truncated, and 0 where it finished, broke a rule or
    met an error. Also the critic's own target. trace 1: the discounted return, bootstrapped; trace 0: one step ahead.

    V_j is extras["values"] [N, T+1] at the position of action j, the state it was chosen in. Positions where the policy did not
    act are skipped: no time passes there (the discount counts actions), their value is not read, and what is paid there belongs
    to the action before (R_j is all that is paid from action j until the next one). They carry what follows them as their own
    number.

    [N, T]. Known at t when every payment that has weight at t is known. Raises ValueError without such values, and for a
    discount or trace outside 0..1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"values": torch.full((4, 4), 0.5)})
    >>> paid = Channel(torch.tensor([[0.0, 0.0, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> lambda_return(paid, traj, trace=0.5).value
    tensor([[0.6250, 0.7500, 1.0000],
            [0.2500, 0.0000, 0.0000],
            [0.6250, 0.7500, 1.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    _check_rate("lambda_return", "discount", discount)
    _check_rate("lambda_return", "trace", trace)
    values = traj.extras.get("values")
    if values is None or values.shape != (len(traj), traj.width + 1):
        found = "none" if values is None else f"shape {list(values.shape)}"
        raise ValueError(
            f"lambda_return: needs extras['values'] of shape [N, T+1] = [{len(traj)}, {traj.width + 1}], found {found}; "
            "a policy with a critic gives them"
        )
    dtype = channel.value.dtype
    # Seen from t, position t+1 is an action (its value and return are mixed), no action (passed through), or the end.
    acted = pad(traj.mask[:, 1:], (0, 1))
    inside = pad(traj.exists[:, 1:], (0, 1))
    at_end = traj.exists & ~inside & (traj.stop == StopReason.truncated)[:, None]
    read = traj.exists & (at_end | acted)
    expected = _either(at_end, discount, discount * (1 - trace), dtype) * torch.where(read, values[:, 1:], 0).to(dtype)
    decay = torch.where(acted, discount * trace, inside.to(dtype))
    paid = torch.where(channel.valid & traj.exists, channel.value, 0) + expected
    valid = _known_from(channel, traj, decay)
    return Channel(torch.where(valid, _backward_sums(paid, decay), 0), valid, channel.reasons)


def _known_from(channel: Channel, traj: Trajectories, decay: Float[Tensor, "#N T"] | None) -> Bool[Tensor, "N #T"]:
    """Where everything that a backward sum weighs is known; one column where the channel says it in one column."""
    if channel.valid.shape[1] == 1:
        return channel.valid
    unknown = (traj.exists & ~channel.valid).to(channel.value.dtype)
    return _backward_sums(unknown, None if decay is None else (decay != 0).to(unknown.dtype)) == 0


def _either(mask: Bool[Tensor, "#N T"], yes: float, no: float, dtype: torch.dtype) -> Float[Tensor, "#N T"]:
    return torch.full_like(mask, no, dtype=dtype).masked_fill_(mask, yes)


def _ticks(traj: Trajectories, per: str) -> Bool[Tensor, "#N T"]:
    """Where time passes between a position and the next, as [N, T] or [1, T]."""
    if per == "position":
        return torch.ones(1, traj.width, dtype=torch.bool, device=traj.device)
    if per == "action":
        return pad(traj.mask[:, 1:], (0, 1))
    if per == "step":
        return pad(traj.step[:, 1:] != traj.step[:, :-1], (0, 1))
    raise ValueError(f'return_to_go: per must be "position", "action" or "step", got {per!r}')


def _backward_sums(x: Float[Tensor, "N T"], decay: Float[Tensor, "#N T"] | None) -> Float[Tensor, "N T"]:
    """y_t = x_t + decay_t y_(t+1) with y = 0 beyond the last column; decay None is 1."""
    rows = max(1, _ENTRIES // max(x.shape[1], 1))
    if decay is None:
        blocks = [block.flip(1).cumsum_(1).flip(1) for block in x.split(rows)]
    elif len(decay) == 1:
        blocks = [_doubling(block, decay) for block in x.split(rows)]
    else:
        blocks = [_doubling(block, rate) for block, rate in zip(x.split(rows), decay.split(rows), strict=True)]
    return torch.cat(blocks) if blocks else x


def _doubling(y: Float[Tensor, "n T"], decay: Float[Tensor, "#n T"]) -> Float[Tensor, "n T"]:
    """The recurrence in log2(T) passes: after each, y_t covers twice as many positions and decay_t is the product over them."""
    reach = 1
    while reach < y.shape[1]:
        y = y + decay * pad(y[:, reach:], (0, reach))
        decay = decay * pad(decay[:, reach:], (0, reach))
        reach *= 2
    return y


def _check_rate(where: str, name: str, rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"{where}: {name} must lie in 0..1, got {rate}")
