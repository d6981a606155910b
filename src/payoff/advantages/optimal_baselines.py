"""Baselines of least variance, weighing rollouts by the noise they bring: by length (OPO), by surprise so far (OTB); and ReMax."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.advantages.actions import known_actions, known_positions, row_counts
from payoff.advantages.arrays import ENTRIES, centred
from payoff.catalogue import method
from payoff.sets import Blocks, Scattered, members_of, sets, statistics
from payoff.trajectories import Channel, Trajectories, at_start

Own = Literal["included", "left-out"]
_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
_FLOATS = {bits: dtype for dtype, bits in _BITS.items()}
_LOG2_E = 1 / math.log(2)
_LEAST = 1e-12  # what an action that could not have been another still weighs, so that a mean over such actions is a plain one


@method("opo", kind="advantage", paper="arXiv:2505.23585", sees="group")
def length_weighted_baseline(channel: Channel, traj: Trajectories, *, own: Own = "included") -> Channel:
    """Subtract the mean of the group weighted by length: the baseline of least variance if actions are equally noisy (OPO).

    A = C - sum_j L_j C_j / sum_j L_j, with C a rollout's credit at its first action and L its number of own actions. The baseline
    of least variance weighs by the squared norm of grad log pi of the rollout; OPO takes that to grow with length.

    own: "included" as published: the baseline then depends on what it is subtracted from, and where lengths vary the gradient turns
         (docs/exact-lab.md). "left-out": only the other rollouts count, which is unbiased.

    Equal credits get exactly 0, and so does a rollout with nobody to compare with. A rollout that never acted weighs nothing.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.7], [0.7]]), torch.ones(4, 1, dtype=torch.bool))
    >>> length_weighted_baseline(credit, four_answers()).value.T  # lengths 3 and 2
    tensor([[ 0.4000, -0.6000,  0.0000,  0.0000]])
    >>> length_weighted_baseline(credit, four_answers(), own="left-out").value.T
    tensor([[ 1., -1.,  0.,  0.]])
    """
    _check("length_weighted_baseline", own)
    credit, known = at_start(channel, traj)
    group = sets(traj, "group")[:, 0]
    length = torch.where(known, row_counts(traj.own), 0).double()
    found = statistics(credit, group, known)
    weights = statistics(length, group, known)
    # Weighted differences from the plain mean, which are exactly 0 where credits are equal.
    off = torch.where(known, length * (credit.double() - found.mean), 0)
    total, total_off = weights.mean * weights.count, statistics(off, group, known).mean * found.count
    compared = known & (found.count > 1)
    if own == "left-out":
        total, total_off = total - length, total_off - off
    fallback = found.mean if own == "included" else found.others_mean  # where nobody acted
    middle = torch.where(total > 0, found.mean + total_off / total.clamp(min=1), fallback)
    middle = torch.where(found.equal, found.mean, middle)[:, None]
    dtype, here = channel.value.dtype, channel.valid
    if channel.value.shape[1] == channel.valid.shape[1] == 1:
        value = torch.where(here, channel.value, 0).double() - middle
    else:
        here = here & traj.exists
        value = torch.where(here, channel.value, 0) - middle.to(dtype)
    return Channel(torch.where(here & compared[:, None], value, 0).to(dtype), channel.valid, channel.reasons)


@method("optimal-token-baseline", kind="advantage", paper="PMLR:v306-li26hy", needs=("old",), sees="group")
def optimal_token_baseline(
    channel: Channel,
    traj: Trajectories,
    *,
    own: Own = "included",
    align: Literal["action", "position"] = "action",
    squares: str | None = None,
) -> Channel:
    """Subtract at every action the group's mean there, weighted by how surprising each rollout was so far (OTB).

    A_t = C_t - sum_j W_jt C_jt / sum_j W_jt, W_jt = sum_{i <= t} (1 - 2 pi_ji + s_ji), with pi = exp(logp["old"]) of the actions
    taken and s the sum of the squared probabilities of all that could have been taken: 1 - 2 pi + s is the squared norm of the
    gradient of log pi by the logits, and W that of the rollout up to there. The credit is a return-to-go.

    own:     "included" as published; or "left-out", only the other rollouts, which makes it unbiased
    align:   which actions of the others are compared with action t: those of the same number, tool text not counted
             ("action": verl's tir_optimal_token_baseline), or at the same position ("position": its optimal_token_baseline)
    squares: the name of s in extras [N, T]. None: s = pi^2, the least it can be, as if the rest of the probability lay thinly on
             many actions; with two actions that gives the same baseline

    An action that no other rollout of the group has a counterpart for keeps its credit: there is nothing to compare it with, and to
    drop it would be a bias. So does everything in a group of one. Equal credits get exactly 0.

    [N, T]; unknown credit takes no part. Raises ValueError where the squares are not there or not [N, T].

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.7], [0.7]]), torch.ones(4, 1, dtype=torch.bool))
    >>> optimal_token_baseline(credit, four_answers()).value
    tensor([[ 0.5000,  0.5000,  1.0000],
            [-0.5000, -0.5000,  0.0000],
            [ 0.0000,  0.7000,  0.7000],
            [ 0.0000,  0.0000,  0.0000]])
    """
    _check("optimal_token_baseline", own)
    if align not in ("action", "position"):
        raise ValueError(f'optimal_token_baseline: align must be "action" or "position", got {align!r}')
    if "old" not in traj.logp:
        raise ValueError('optimal_token_baseline: needs logp["old"]')
    # What is left of a sum without its largest member is lost in single precision.
    dtype = torch.float64 if own == "left-out" else torch.promote_types(channel.value.dtype, torch.float32)
    s = None if squares is None else traj.extras.get(squares)
    if squares is not None and (s is None or s.shape != traj.mask.shape):
        what = "none" if s is None else f"shape {list(s.shape)}"
        raise ValueError(f"optimal_token_baseline: needs extras[{squares!r}] [N, T] = {list(traj.mask.shape)}, found {what}")
    known, value = known_actions(channel, traj), channel.value.expand(traj.mask.shape)
    whole = bool((row_counts(traj.own) == traj.length).all())  # every position is an own action
    place = None if whole or align == "position" else _numbers(traj)
    result = torch.empty(traj.mask.shape, dtype=dtype, device=traj.device)  # each block is worked on where it will stay
    for rows, members in _sets_of(traj, apart=not value.requires_grad):
        here = acted = _bits(known[rows], dtype)
        if known is not traj.own:
            acted = _bits(traj.own[rows], dtype)
        weight = _energies(traj.logp["old"][rows].detach(), None if s is None else s[rows].detach(), acted, gaps=not whole)
        weight = _kept(weight, here, out=weight)
        x = torch.where(known, value, 0).to(dtype) if value.requires_grad else _kept(value[rows], here, out=result[rows])
        if place is None:
            found = _less_mean(x, weight, here, members, own)
        else:  # every row's actions side by side, so that those of one number lie in one column
            move = lambda y, at=place[rows]: torch.zeros_like(y).scatter_add_(1, at, y)
            found = _less_mean(move(x), move(weight), move(here), members, own).gather(1, place[rows])
        if value.requires_grad:
            result = torch.where(known, found, 0)
        else:
            _kept(found, here, out=result[rows])
    result = result.to(channel.value.dtype)
    apart = None if whole else known_positions(channel, traj) & ~traj.own
    if apart is not None and bool(apart.any()):
        result = torch.where(apart, channel.value, result)
    return Channel(result, channel.valid, channel.reasons)


@method("exact-optimal-token-baseline", kind="advantage", paper="PMLR:v306-li26hy", needs=("old", "sum_pi_squared"), sees="group")
def exact_optimal_token_baseline(
    channel: Channel,
    traj: Trajectories,
    *,
    own: Own = "included",
    align: Literal["action", "position"] = "action",
    squares: str = "sum_pi_squared",
) -> Channel:
    """`optimal-token-baseline` with the sum of pi^2 over all that could have been done, as the policy gives it (OTB).

    A_t = C_t - sum_j W_jt C_jt / sum_j W_jt, W_jt = sum_{i <= t} (1 - 2 pi_ji + sum_v pi_ji(v)^2): W is the squared norm of the
    gradient of log pi(a_1 .. a_t) by the logits of all its actions, and of all numbers b that could be subtracted at t for the
    whole of the rollouts at hand the mean so weighed makes sum_j W_jt (C_jt - b)^2 least.

    Reads logp["old"] and extras[squares] [N, T], of the policy that acted; language models, which have no such extra of their
    own accord, compute it at one more pass over the logits. Options and degenerate cases as in `optimal-token-baseline`.

    >>> from payoff.examples import four_answers
    >>> half = torch.full((4, 3), 0.5)  # two actions alike: 1 - 1 + 1/2 each
    >>> traj = four_answers().replace(logp={"old": half.log()}, extras={"sum_pi_squared": half})
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.7], [0.7]]), torch.ones(4, 1, dtype=torch.bool))
    >>> exact_optimal_token_baseline(credit, traj).value[:2]
    tensor([[ 0.5000,  0.5000,  1.0000],
            [-0.5000, -0.5000,  0.0000]])
    """
    return optimal_token_baseline(channel, traj, own=own, align=align, squares=squares)


@method("remax", kind="advantage", paper="arXiv:2310.10505", sees="group")
def greedy_baseline(channel: Channel, traj: Trajectories, *, greedy: str = "greedy") -> Channel:
    """Subtract what the policy's greedy answer to the same start earned (ReMax).

    A_t = C_t - C_greedy: extras[greedy] [N] is not 0 at the rollouts that were decoded greedily, one or several in every group,
    which are scored as all others are. They are no samples of the policy, and so are left without a verdict: they get no gradient.
    Their mean credit at the first action is the baseline; it is independent of the sampled rollouts, hence no bias, in
    groups of one sample too.

    A group without a known greedy rollout has nothing to subtract, and its rollouts get 0. A credit equal to the greedy one gets
    exactly 0. Raises ValueError where the extra is not there or not [N].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"greedy": torch.tensor([0, 1, 0, 1])})
    >>> credit = Channel(torch.tensor([[1.0], [0.25], [0.0], [0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> found = greedy_baseline(credit, traj)
    >>> found.value.T, found.valid.T
    (tensor([[ 0.7500,  0.0000, -0.5000,  0.0000]]), tensor([[ True, False,  True, False]]))
    """
    marked = traj.extras.get(greedy)
    if marked is None or marked.ndim != 1:
        found_ = "none" if marked is None else f"shape {list(marked.shape)}"
        raise ValueError(f"greedy_baseline: needs extras[{greedy!r}] [N] that marks the greedy rollouts, found {found_}")
    is_greedy = marked != 0
    credit, known = at_start(channel, traj)
    found = statistics(credit, sets(traj, "group")[:, 0], known & is_greedy)
    valid = channel.valid & ~is_greedy[:, None]
    compared = valid & (found.count > 0)[:, None]
    middle = found.mean[:, None].to(channel.value.dtype)
    if channel.value.shape[1] == channel.valid.shape[1] == 1:
        return Channel(torch.where(compared, channel.value - middle, 0), valid, channel.reasons)
    return Channel(centred(channel.value, middle, compared & traj.exists), valid, channel.reasons)


def _energies(
    logp: Float[Tensor, "n T"], squares: Float[Tensor, "n T"] | None, acted: Int[Tensor, "n T"], *, gaps: bool
) -> Float[Tensor, "n T"]:
    """The sum of 1 - 2 pi + s over the row's actions up to each; beyond the last anything.

    gaps: something that is no action may stand before one
    """
    dtype = _FLOATS[acted.dtype]
    # The exponential of base 2 takes half as long as the other, and NaN does not slow it down.
    pi = (_kept(logp, acted) if gaps else logp.to(dtype)).mul(_LOG2_E).exp2_()
    energy = pi.sub_(1).square_() if squares is None else torch.add(squares.to(dtype), pi, alpha=-2, out=pi).add_(1)
    energy.clamp_(min=_LEAST)
    if gaps:  # or else what is no action comes last, where sums no longer matter
        _kept(energy, acted, out=energy)
    return energy.cumsum_(1)


def _bits(where: Bool[Tensor, "n T"], dtype: torch.dtype) -> Int[Tensor, "n T"]:
    """All bits of a number of this dtype set where it counts, none elsewhere: -1 and 0."""
    return where.view(torch.int8).neg().to(_BITS[dtype])


def _kept(x: Float[Tensor, "n T"], bits: Int[Tensor, "n T"], *, out: Float[Tensor, "n T"] | None = None) -> Float[Tensor, "n T"]:
    """x, and 0 where no bits are whatever lies there (NaN too), in the dtype of those bits; into `out` where that is given."""
    dtype = _FLOATS[bits.dtype]
    out = torch.empty(bits.shape, dtype=dtype, device=bits.device) if out is None else out
    torch.bitwise_and(x.to(dtype).view(bits.dtype), bits, out=out.view(bits.dtype))
    return out


def _sets_of(traj: Trajectories, *, apart: bool) -> Iterator[tuple[slice, Blocks | Scattered]]:
    """Rows and the groups they make up: some whole groups at a time where they come one after another, else all at once."""
    members = members_of(sets(traj, "group")[:, 0])
    if not isinstance(members, Blocks) or not apart:
        yield slice(None), members
        return
    groups, size, _ = members.shape
    some = max(1, ENTRIES // max(size * traj.width, 1))
    for start in range(0, groups, some):
        here = min(some, groups - start)
        yield slice(start * size, (start + here) * size), members._replace(shape=(here, size, 1))


def _less_mean(
    value: Float[Tensor, "n T"], weight: Float[Tensor, "n T"], here: Int[Tensor, "n T"], members: Blocks | Scattered, own: Own
) -> Float[Tensor, "n T"]:
    """Each value less the weighted mean of its set's in the same column; what is not here (0, and weighs 0) takes no part.

    Means are of distances from one member's value, exactly 0 where all are equal. What nobody else has a counterpart for keeps
    its value: its distance of 0 and the member's, which is its own.
    """
    of = members.of
    x, w = members.arranged(value), members.arranged(weight)
    bits = members.arranged(here)
    several = (bits.sum(1, keepdim=True, dtype=here.dtype) if isinstance(members, Blocks) else members.sum(bits)) < -1
    # The common value where all are equal, whether or not zeros stand for members that are not here.
    member = members.greatest(x.detach()).clamp_(min=0).add_(members.least(x.detach()).clamp_(max=0))
    off = x - of(member) if x.requires_grad else x.sub_(of(member))
    total = members.sum(w)
    paid = w * off if own == "left-out" or off.requires_grad else w.mul_(off)
    total_paid = members.sum(paid)
    if own == "included":
        mean = of(torch.where(several, total_paid / total, -member))
    else:
        left = of(total) - w
        mean = torch.where(of(several) & (left > 0), (of(total_paid) - paid) / left, -of(member))
    return (off - mean if x.requires_grad else off.sub_(mean)).reshape(value.shape)


def _numbers(traj: Trajectories) -> Int[Tensor, "N T"] | None:
    """The number of each position among its row's actions (that of the next one where there is none); None where it is t."""
    if not (traj.own[:, 1:] & ~traj.own[:, :-1]).any() and bool(traj.own[:, 0].all()):
        return None
    return (traj.own.cumsum(1) - traj.own.long()).clamp(max=traj.width - 1)


def _check(where: str, own: str) -> None:
    if own not in ("included", "left-out"):
        raise ValueError(f'{where}: own must be "included" or "left-out", got {own!r}')
