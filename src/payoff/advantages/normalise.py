"""The one normalisation that most advantages are: a set, a unit, a baseline, a scale, and every convention by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.advantages.actions import ActionStatistics, action_statistics, known_positions
from payoff.advantages.arrays import blocks, both, centred, clean
from payoff.advantages.stretches import Stretches, stretches
from payoff.catalogue import method
from payoff.sets import Over, SetStatistics, sets, statistics
from payoff.trajectories import Channel, Trajectories, at_start

Unit = Literal["rollout", "step", "action"]
Baseline = Literal["mean", "leave-one-out", "none"]
Scale = Literal["std", "leave-one-out-std", "rms", "none"]
EpsWhere = Literal["outside", "inside", "floor"]
Single = Literal["zero", "raw"]
Ended = Literal["zero", "absent", "carried"]


@dataclass(frozen=True)
class Convention:
    """What trainers that say the same word do differently; the fields are the options of `standardise`."""

    baseline: Baseline = "mean"
    scale: Scale = "std"
    scale_over: Over | None = None
    ddof: int = 0
    eps: float = 0.0
    eps_where: EpsWhere = "outside"
    single: Single = "zero"


@method("standardise", kind="advantage", sees="batch")
def standardise(
    channel: Channel,
    traj: Trajectories,
    *,
    over: Over = "group",
    unit: Unit = "rollout",
    baseline: Baseline = "mean",
    scale: Scale = "std",
    scale_over: Over | None = None,
    ddof: int = 0,
    eps: float = 0.0,
    eps_where: EpsWhere = "outside",
    single: Single = "zero",
    ended: Ended = "absent",
) -> Channel:
    """Subtract from every action a baseline of its set and divide by the set's scale: A_t = (C_t - b) / s.

    over:       the set that b and s are taken of: "group", "batch", "step" (one group's step of one number), "siblings"
    unit:       what is counted there: rollouts, each by its credit at its first action; steps, each by its credit at its first
                action; or actions
    baseline:   b = the mean of the set, the mean of its other members ("leave-one-out"), or 0 ("none")
    scale:      s = the standard deviation of the set, or of its other members ("leave-one-out-std"), the root of its mean square
                ("rms"), or 1 ("none"); taken of the set `scale_over` where that is another
    ddof, eps:  std divides by count - ddof; s becomes s + eps ("outside"), sqrt(s^2 + eps) ("inside") or sqrt(max(s^2, eps))
                ("floor")
    single:     an entry with nobody to be compared with (a set of one, or the only one known) gets 0, or keeps its number as if
                b = 0 and s = 1 before eps ("raw"). Does not apply to baseline "none".
    ended:      with over="step" and unit="step": rollouts without a step of this number take no part, or count 0 ("zero": what
                a rollout that has ended still earns), or by their last step ("carried"); both provided that this last step is known

    One column [N, 1] stays one column where a row has one b and one s: unit "step" and over "step" give [N, T].
    Only known numbers count. Where s is exactly 0 nothing is divided, so a set of equal numbers gets exactly 0 in any dtype,
    never a rounding error that a small eps made large. An entry that is itself unknown stays unknown.

    Raises ValueError for a rollout compared within a step, and for "leave-one-out" where other members of the set belong to the
    same rollout: such a baseline would depend on the action it is subtracted from.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [3.0], [3.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> standardise(credit, four_answers()).value.T
    tensor([[ 1., -1.,  0.,  0.]])
    >>> standardise(credit, four_answers(), over="batch", baseline="leave-one-out", scale="none").value.T
    tensor([[-1.0000, -2.3333,  1.6667,  1.6667]])
    """
    _check(over, unit, baseline, scale, scale_over, eps_where, single, ended)
    parts = stretches(traj) if unit == "step" else None
    stats, spread, alone = _measure(channel, traj, parts, over, unit, scale, ddof, ended)
    if scale_over not in (None, over):
        _, spread, _ = _measure(channel, traj, parts, scale_over, unit, scale, ddof, ended)
    if baseline == "leave-one-out" and isinstance(stats, SetStatistics):
        middle = stats.others_mean
    else:
        middle = stats.mean if baseline == "mean" else torch.zeros_like(stats.count)
    alone = alone & (baseline != "none")
    if single == "raw":
        middle, spread = torch.where(alone, 0, middle), None if spread is None else torch.where(alone, 1, spread)
        alone = torch.zeros_like(alone)
    divisor = None if spread is None else _divisor(spread, eps, eps_where)
    return _apply(channel, traj, parts, middle, divisor, alone)


def resolve(where: str, convention: str | Convention, known: Mapping[str, Convention]) -> Convention:
    """A convention by its name, or the one given; ValueError names those that there are."""
    if isinstance(convention, Convention):
        return convention
    if convention not in known:
        raise ValueError(f"{where}: unknown convention {convention!r}; there are {', '.join(known)}")
    return known[convention]


def _divisor(spread: Float[Tensor, "N K"], eps: float, eps_where: EpsWhere) -> Float[Tensor, "N K"]:
    if eps_where == "outside":
        return torch.where(spread > 0, spread + eps, 1)
    square = spread.square()
    return torch.where(spread > 0, square + eps if eps_where == "inside" else square.clamp(min=eps), 1).sqrt()


def _apply(
    channel: Channel,
    traj: Trajectories,
    parts: Stretches | None,
    middle: Float[Tensor, "N #K"],
    divisor: Float[Tensor, "N #K"] | None,
    silent: Bool[Tensor, "N #K"],
) -> Channel:
    """(value - middle) / divisor (1 where there is none) at every action, 0 where silent or unknown."""
    dtype, here = channel.value.dtype, channel.valid
    given = (channel.value, here, middle) if divisor is None else (channel.value, here, middle, divisor)
    if parts is None and all(x.shape[1] == 1 for x in given):
        value = torch.where(here, channel.value, 0).double() - middle
        value = value if divisor is None else value / divisor
        return Channel(torch.where(here & ~silent, value, 0).to(dtype), channel.valid, channel.reasons)
    # On [N, T] in the input's dtype: b of equal numbers is their value in any.
    scale, silenced = [], bool(silent.any())
    if divisor is not None and bool((divisor != 1).any()):
        scale = [divisor.reciprocal().to(dtype)]
    middle = middle.to(dtype)
    here, value = known_positions(channel, traj), channel.value
    if parts is None:
        here = both(here, ~silent) if silenced else here
        return Channel(centred(value, middle, here, *scale), channel.valid, channel.reasons)
    if silenced:  # what is silent is multiplied by 0
        scale = [torch.where(silent, 0, x) for x in scale or [torch.ones_like(middle)]]
    each = [parts.of_step(x) for x in (middle, *scale)]

    def written(rows: slice, out: Tensor | None) -> Tensor:
        baseline, *factors = (parts.spread(x, rows) for x in each)
        kept = both(here[rows], factors[0].bool()) if silenced else here[rows]
        return centred(value[rows], baseline, kept, *factors, out=out)

    if any(x.requires_grad for x in (value, *each)):
        return Channel(written(slice(None), None), channel.valid, channel.reasons)
    result = torch.empty(here.shape, dtype=dtype, device=traj.device)
    for rows in blocks(result):
        written(rows, result[rows])
    return Channel(result, channel.valid, channel.reasons)


def _check(
    over: str, unit: str, baseline: str, scale: str, scale_over: str | None, eps_where: str, single: str, ended: str
) -> None:
    allowed = {
        "unit": (unit, get_args(Unit)),
        "baseline": (baseline, get_args(Baseline)),
        "scale": (scale, get_args(Scale)),
        "eps_where": (eps_where, get_args(EpsWhere)),
        "single": (single, get_args(Single)),
        "ended": (ended, get_args(Ended)),
    }
    for name, (value, choices) in allowed.items():
        if value not in choices:
            raise ValueError(f"standardise: {name} must be one of {', '.join(choices)}, got {value!r}")
    if unit == "rollout" and "step" in (over, scale_over):
        raise ValueError('standardise: over="step" compares steps, so unit must be "step" or "action", got "rollout"')
    for part, where in ((baseline, over), (scale, scale_over or over)):
        if part.startswith("leave-one-out") and unit != "rollout" and (unit, where) != ("step", "step"):
            raise ValueError(
                f'standardise: "{part}" with unit="{unit}" over="{where}" would compare a rollout with itself; '
                'leave out rollouts (unit="rollout"), or steps of one number (unit="step", over="step")'
            )


def _measure(
    channel: Channel, traj: Trajectories, parts: Stretches | None, over: Over, unit: Unit, scale: Scale, ddof: int, ended: Ended
) -> tuple[SetStatistics | ActionStatistics, Float[Tensor, "N K"] | None, Bool[Tensor, "N K"]]:
    """Statistics of each entry's set, its spread by `scale` if it has one, and whether nobody else is known there."""
    ddof = 0 if scale == "rms" else ddof
    if unit == "action" and over != "step":
        stats: SetStatistics | ActionStatistics = action_statistics(channel, traj, over, ddof=ddof)
        alone = stats.count <= 1
    else:
        number, where, key = _entries(channel, traj, parts, over, unit, ended)
        stats = entries = statistics(number, key, where, ddof=ddof)
        alone = entries.count - where.double() <= 0
        if scale == "leave-one-out-std":
            return entries, _others_std(entries, number, where, key, ddof), alone
    if scale == "none":
        return stats, None, alone
    spread = (stats.std.square() + stats.mean.square()).sqrt() if scale == "rms" else stats.std
    return stats, spread, alone


def _entries(
    channel: Channel, traj: Trajectories, parts: Stretches | None, over: Over, unit: Unit, ended: Ended
) -> tuple[Float[Tensor, "N K"], Bool[Tensor, "N K"], Int[Tensor, "..."]]:
    """What is compared: (number, whether it counts, the set it belongs to, or its row does), with K = 1, the steps, or T."""
    if unit == "rollout":
        number, where = at_start(channel, traj)
        return number[:, None], where[:, None], sets(traj, over)
    if parts is None:
        where = channel.valid & traj.own
        return torch.where(where, channel.value, 0), where, sets(traj, over).expand(where.shape)
    number, acts, known = _step_starts(channel, parts)
    if over != "step":
        return number, known, sets(traj, over).expand(acts.shape)
    if ended != "absent":
        steps = torch.arange(acts.shape[1], device=traj.device)
        last_of = lambda found: (found * (steps + 1)).amax(1, keepdim=True) - 1
        last = last_of(acts)
        at, reached = last.clamp(min=0), last if parts.whole else last_of(parts.exists)
        over_by_then = steps > torch.where((last >= 0) & known.gather(1, at), reached, len(steps))
        if ended == "carried":
            number = torch.where(over_by_then, number.gather(1, at), number)
        known = known | over_by_then
    return number, known, sets(traj, "group")[:, 0]  # step by step


def _step_starts(channel: Channel, parts: Stretches) -> tuple[Float[Tensor, "N S"], Bool[Tensor, "N S"], Bool[Tensor, "N S"]]:
    """(number, acts, known) of every step: a credit's number for it, its value at the first action taken in it (0 if unknown)."""
    first = parts.first_actions()
    acts, at = first >= 0, first.clamp(min=0)
    there = lambda x: x if x.shape[1] == 1 else x.reshape(-1).index_select(0, at.view(-1)).view(at.shape)
    known = acts if channel.valid.shape[1] == 1 and channel.valid.all() else acts & there(channel.valid)
    return clean(there(channel.value).expand(known.shape), known), acts, known


def _others_std(
    stats: SetStatistics, number: Float[Tensor, "N K"], where: Bool[Tensor, "N K"], key: Int[Tensor, "..."], ddof: int
) -> Float[Tensor, "N K"]:
    """Standard deviation of the other members, by taking the entry out of the sum of squares; exactly 0 where they are equal."""
    own = where.double()
    others = stats.count - own
    squares = stats.std.square() * (stats.count - ddof).clamp(min=0)
    # Without entry i: sum of squares - (x_i - mean)^2 n / (n - 1).
    squares = squares - own * (number.double() - stats.mean).square() * stats.count / others.clamp(min=1)
    enough = others > ddof
    for edge in (stats.low, stats.high):  # others that are all equal are all the least, or all the greatest, of the set
        at_edge = ((number.double() == edge) & where).double()
        enough = enough & ((statistics(at_edge, key, where).mean * stats.count).round() - at_edge < others)
    return torch.where(enough, squares.clamp(min=0) / (others - ddof).clamp(min=1), 0).sqrt()
