"""Entropy kept by holding back a few actions: those in which the policy is sure and that are better than the rest.

The entropy of a softmax policy falls by the covariance of log-probability and advantage, and few actions make up most of it. Its
means run over the terms that count of one `sets(traj, "batch")`, so both losses must see a batch whole: a minibatch is one.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.losses.ratios import FARTHEST, Acted, acted, check_bounds, clipped, means
from payoff.pipeline import Evaluation, LossOutput
from payoff.sets import sets
from payoff.trajectories import Channel, Trajectories


@method("clip-cov", kind="loss", paper="arXiv:2505.22617", needs=("old",), sees="batch")
def clip_cov(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    share: float = 2e-4,
    least: float = 1.0,
    most: float = 5.0,
    low: float = 0.2,
    high: float = 0.2,
    seed: int = 0,
) -> LossOutput:
    """`ppo_clip` without a few actions of high covariance, drawn by lot (Clip-Cov): their terms are 0.

    c_t = (A_t - mean A) (log pi(a_t) - mean log pi). Of the actions with least < c_t < most that no bound clips, as many as
    max(1, floor(share * terms)) are left out, or all where they are fewer. They go on counting in the aggregation.

    At rho = 1 the gradient is that of `policy_gradient` without those actions: the share is small, and that is the point. What is
    left out follows from seed, trajectory id and position, so it does not depend on how rows are ordered, and is the same in every
    pass in which the same actions are eligible.

    least, most: in units of advantage times nats; low, high: as in `ppo_clip`. Aggregate by `token-mean`.
    Metrics: left_out_fraction, clip_fraction, approx_kl, ratio.
    Raises ValueError without traj.logp["old"], for a share outside 0..1, least above most, and bounds that do not allow 1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> old = torch.tensor([[-0.1, -3.0, -3.0], [-3.0, -3.0, 0.0], [-3.0, -3.0, -3.0], [-3.0, 0.0, 0.0]])
    >>> clip_cov(Evaluation(old, {}), traj.replace(logp={"old": old}), advantage).terms
    tensor([[ 0., -1., -1.],
            [ 1.,  1.,  0.],
            [-1., -1., -1.],
            [ 1.,  0.,  0.]])
    """
    check_bounds("clip_cov", low, high)
    _check_share("clip_cov", share)
    if least > most:
        raise ValueError(f"clip_cov: least must be at most most, got {least} and {most}")
    found = acted("clip_cov", evaluation, traj, target)
    covariance, batch, size = _covariance(found, traj)
    surrogate = clipped(found.counts, found.advantage, found.far, low, high)
    eligible = found.counts & (covariance > least) & (covariance < most) & ~surrogate.took
    row, position = eligible.nonzero(as_tuple=True)
    left_out = _largest(_lot(traj.id[row], position, seed), row, position, (size * share).long().clamp(min=1), batch, traj)
    terms = torch.where(left_out, 0, surrogate.terms)
    metrics = {
        "left_out_fraction": left_out,
        "clip_fraction": surrogate.took,
        "approx_kl": surrogate.kl,
        "ratio": surrogate.ratio,
    }
    return LossOutput(terms, means(found.counts, metrics))


@method("kl-cov", kind="loss", paper="arXiv:2505.22617", needs=("old",), sees="batch")
def kl_cov(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    share: float = 2e-4,
    coefficient: float = 1.0,
) -> LossOutput:
    """The unclipped surrogate with a penalty on the actions of highest covariance (KL-Cov): term_t = -rho_t A_t + k_t |log rho_t|.

    k_t = coefficient for the max(1, floor(share * terms)) actions with the largest c_t = (A_t - mean A) (log pi(a_t) - mean log
    pi), else 0. At rho = 1 the penalty has no gradient and the loss is `policy_gradient`; the pull on those few actions, of
    constant strength and back to where they were, begins with the first step away. Ties in c go to the earlier id, then position.

    Aggregate by `token-mean`. log rho is cut at +-20 nats.
    Metrics: held_fraction (of the terms, those with k > 0), distance (mean of |log rho|), approx_kl, ratio.
    Raises ValueError without traj.logp["old"], for a share outside 0..1 and a negative coefficient.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> surer = Evaluation(traj.logp["old"] + torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.0]]).repeat(2, 1), {})
    >>> kl_cov(surer, traj, advantage).terms
    tensor([[-1.0000, -1.1487, -1.0000],
            [ 1.0000,  1.0000,  0.0000],
            [-1.0000, -1.6487, -1.0000],
            [ 1.0000,  0.0000,  0.0000]])
    """
    _check_share("kl_cov", share)
    if coefficient < 0:
        raise ValueError(f"kl_cov: coefficient must be at least 0, got {coefficient}")
    found = acted("kl_cov", evaluation, traj, target)
    far = found.far.clamp(-FARTHEST, FARTHEST)
    ratio, distance = far.exp(), far.abs()
    covariance, batch, size = _covariance(found, traj)
    row, position = found.counts.nonzero(as_tuple=True)
    held = _largest(covariance[row, position], row, position, (size * share).long().clamp(min=1), batch, traj)
    terms = torch.where(held, coefficient * distance, 0) - found.advantage * ratio
    metrics = {"held_fraction": held, "distance": distance, "approx_kl": ratio - 1 - far, "ratio": ratio}
    return LossOutput(torch.where(found.counts, terms, 0), means(found.counts, metrics))


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"{name}: share must lie in (0, 1], got {share}")


def _covariance(found: Acted, traj: Trajectories) -> tuple[Float[Tensor, "N T"], Int[Tensor, " N"], Float[Tensor, " B"]]:
    """(A - mean A) (log pi - mean log pi) of every term, the number of each row's batch, and how many terms each batch has."""
    batch = sets(traj, "batch")[:, 0].unique(return_inverse=True)[1]
    batches = int(batch.max()) + 1 if len(batch) else 1
    total = lambda x: torch.zeros(batches, dtype=torch.float64, device=x.device).index_add(0, batch, x.double())
    size = total(found.counts.sum(1))
    mean = lambda x: (total(x.sum(1, dtype=torch.float64)) / size.clamp(min=1))[batch][:, None].to(x.dtype)
    logp, advantage = (torch.where(found.counts, x.detach(), 0) for x in (found.logp, found.advantage))
    return (advantage - mean(advantage)) * (logp - mean(logp)), batch, size


def _largest(
    score: Float[Tensor, " E"],
    row: Int[Tensor, " E"],
    position: Int[Tensor, " E"],
    count: Int[Tensor, " B"],
    batch: Int[Tensor, " N"],
    traj: Trajectories,
) -> Bool[Tensor, "N T"]:
    """Where the `count` largest scores of each batch are; entries come row by row, and ties go in order of id, then position."""
    chosen = torch.zeros_like(traj.mask)
    if not len(score):
        return chosen
    if len(count) == 1:  # only what may be chosen is worth sorting
        near = score >= score.topk(min(int(count), len(score))).values[-1]
        score, row, position = score[near], row[near], position[near]
    order = traj.id[row].argsort(stable=True)
    order = order[score[order].argsort(descending=True, stable=True)]
    order = order[batch[row][order].argsort(stable=True)]
    size = torch.bincount(batch[row], minlength=len(count))
    of = batch[row][order]
    taken = order[torch.arange(len(order), device=row.device) - (size.cumsum(0) - size)[of] < count[of]]
    chosen[row[taken], position[taken]] = True
    return chosen


def _lot(id: Int[Tensor, " E"], position: Int[Tensor, " E"], seed: int) -> Float[Tensor, " E"]:
    """A number in [0, 1) for every action that looks drawn at random, from seed, id and position."""
    return _mix(_mix(_mix(torch.full_like(id, seed + 1)) ^ id) ^ position).double() / 2**31


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Scatter whole numbers over 0 .. 2^31 - 1 (products of 31-bit numbers, which never overflow)."""
    x = x & 0x7FFFFFFF
    for factor in (0x45D9F3B, 0x3335B369):
        x = ((x ^ (x >> 15)) * factor) & 0x7FFFFFFF
    return x ^ (x >> 16)
