"""Baselines of least variance, weighing rollouts by the noise they bring: by length (OPO), by surprise so far (OTB); and ReMax."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.sets import sets, statistics
from payoff.trajectories import Channel, Trajectories, at_start

Own = Literal["included", "left-out"]
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
    length = torch.where(known, traj.own.sum(1), 0).double()
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
    pi = torch.where(traj.own, traj.logp["old"].detach(), 0).double().exp()
    energy = (1 - pi).square()
    if squares is not None:
        s = traj.extras.get(squares)
        if s is None or s.shape != traj.mask.shape:
            found = "none" if s is None else f"shape {list(s.shape)}"
            raise ValueError(f"optimal_token_baseline: needs extras[{squares!r}] [N, T] = {list(traj.mask.shape)}, found {found}")
        energy = energy + (torch.where(traj.own, s.detach(), 0).double() - pi.square()).clamp(min=0)
    so_far = torch.where(traj.own, energy.clamp(min=_LEAST), 0).cumsum(1)

    known = traj.own & channel.valid
    value = torch.where(known, channel.value, 0)
    place = traj.own.cumsum(1) - 1 if align == "action" else torch.arange(traj.width, device=traj.device).expand(known.shape)
    baseline, compared = _weighted_mean(value, torch.where(known, so_far, 0), place.clamp(min=0), traj, own)
    advantage = value - torch.where(compared, baseline, 0).to(value.dtype)
    here = channel.valid & traj.exists
    kept = torch.where(here & ~traj.own, channel.value, 0)
    return Channel(torch.where(known, advantage, kept), channel.valid, channel.reasons)


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
    here = valid if channel.value.shape[1] == channel.valid.shape[1] == 1 else valid & traj.exists
    value = torch.where(here, channel.value, 0) - found.mean[:, None].to(channel.value.dtype)
    return Channel(torch.where(here & (found.count > 0)[:, None], value, 0), valid, channel.reasons)


def _weighted_mean(
    value: Float[Tensor, "N T"], weight: Float[Tensor, "N T"], place: Int[Tensor, "N T"], traj: Trajectories, own: Own
) -> tuple[Float[Tensor, "N T"], Tensor]:
    """The group's weighted mean at each action's place, and whether another rollout has one there; weight 0 takes no part."""
    group = sets(traj, "group")[:, 0].unique(return_inverse=True)[1]
    width = traj.width
    key = group[:, None] * width + place
    size = (int(group.max()) + 1) * width if len(group) else 0
    dense = lambda x: torch.zeros(size, dtype=torch.float64, device=x.device).index_add(0, key.flatten(), x.flatten())
    of = lambda total: total[key]
    here = weight > 0
    extreme = torch.full((size,), torch.inf, dtype=value.dtype, device=value.device)
    where = key.flatten()
    low = of(extreme.scatter_reduce(0, where, torch.where(here, value, torch.inf).flatten(), "amin"))
    high = of((-extreme).scatter_reduce(0, where, torch.where(here, value, -torch.inf).flatten(), "amax"))
    paid = weight * value.double()
    total, total_paid, count = of(dense(weight)), of(dense(paid)), of(dense(here.double()))
    others = count - here.double() > 0
    if own == "left-out":
        total, total_paid = total - weight, total_paid - paid
    mean = total_paid / torch.where(total > 0, total, 1)
    # A mean lies between the least and the greatest; where these are equal rounding must not tell them apart.
    return mean.clamp(low.double(), high.double()), others & (total > 0)


def _check(where: str, own: str) -> None:
    if own not in ("included", "left-out"):
        raise ValueError(f'{where}: own must be "included" or "left-out", got {own!r}')
