"""Losses that fit an implicit reward, the log-ratio of a whole trajectory, to the reward: for any policy with log-probabilities.

The optimum of E[r] - beta KL(pi, ref) has log pi / pi_ref = r / beta - log Z, with the same Z for all trajectories of a start. What
is compared within a start needs no Z. A trajectory's number stands at every one of its own actions: aggregate by the sequence mean.
Log-probabilities must be sums over the dimensions of an action; of means, beta is another (times dimensions).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Evaluation, LossOutput
from payoff.sets import statistics
from payoff.trajectories import Channel, Trajectories, at_start, log_ratio


@method("prdp", kind="loss", paper="arXiv:2402.08714", needs=("old", "ref"), sees="group")
def prdp(evaluation: Evaluation, traj: Trajectories, target: Channel, *, beta: float = 10.0, eps: float = 1e-4) -> LossOutput:
    """Predict the difference of two rollouts' rewards by the difference of their log-ratios (PRDP, eq. 9 and 11).

    rhat = sum_t (log pi - log pi_ref)(a_t); for a pair of one start, l = ((rhat_a - rhat_b) - (r_a - r_b) / beta)^2, and l_clip the
    same with every step's log-ratio kept within eps of what it was when the rollout was sampled. A rollout's term is the mean of
    max(l, l_clip) over its pairs. 0 only at pi_ref exp(r / beta) / Z on what was sampled. The target is the reward itself
    (`total`), not an advantage: it is in units of beta, and a constant added to a start's rewards changes nothing.

    eps: infinity gives the plain regression. A proximal step: once a step's log-ratio has moved by eps, its gradient ends.
    A rollout without verdict is in no pair; one without a partner has term 0. Metrics: difference (mean of |rhat_a - rhat_b|),
    error (mean of the unclipped l). Raises ValueError unless beta > 0 and eps > 0, or without traj.logp["old"] and ["ref"].

    >>> from payoff.examples import four_answers
    >>> reward = Channel(torch.tensor([[1.0], [0.0], [2.0], [2.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> traj = four_answers()  # log-ratios are 1.5, 1, 1.5 and 0.5 in all
    >>> prdp(Evaluation(traj.logp["old"], {}), traj, reward, beta=1.0).terms[:, 0]
    tensor([0.2500, 0.2500, 1.0000, 1.0000])
    """
    if not beta > 0 or not eps > 0:
        raise ValueError(f"prdp: beta and eps must be > 0, got beta {beta} and eps {eps}")
    for name in ("old", "ref"):
        if name not in traj.logp:
            raise ValueError(f"prdp: needs traj.logp[{name!r}]")
    reward, known = _known(target, traj)
    step = log_ratio(evaluation.logp, traj.logp["ref"], traj)
    was = log_ratio(traj.logp["old"], traj.logp["ref"], traj)
    free, kept = step.sum(1), torch.minimum(torch.maximum(step, was - eps), was + eps).sum(1)
    pair = (traj.group[:, None] == traj.group) & known[:, None] & known
    pair = pair.fill_diagonal_(False)
    row, other = pair.nonzero(as_tuple=True)
    wanted = (reward[row] - reward[other]) / beta
    loose = (free[row] - free[other] - wanted).square()
    worst = torch.maximum(loose, (kept[row] - kept[other] - wanted).square())
    partners = pair.sum(1).clamp(min=1)
    number = free.new_zeros(len(traj)).index_add(0, row, worst) / partners
    size = max(len(row), 1)
    metrics = {
        "difference": float((free[row] - free[other]).detach().abs().double().sum() / size),
        "error": float(loose.detach().double().sum() / size),
    }
    return LossOutput(_spread(number, pair.any(1), traj), metrics)


@method("crd", kind="loss", paper="arXiv:2603.14128", needs=("old",), sees="group")
def crd(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    beta: float = 1.0,
    bound: float = 5.0,
    weights: Literal["uniform", "soft"] = "uniform",
    temperature: float = 1.0,
) -> LossOutput:
    """Regress the centred log-ratio on the centred reward (centred reward distillation, eq. 8-10).

    s = sum_t (log pi - log pi_old)(a_t), r = clamp(A, -bound, bound) / (2 bound) + 1/2 with A the target, a group advantage; and
    term = bound / beta (beta (s - c_s) - (r - c_r))^2, with c_r and c_s means over the start's rollouts; no gradient through c_s.
    With uniform weights and the reference as the old policy it is the loss of `prdp` without clipping, up to a factor.

    weights: of those means: "uniform"; or "soft", the average of two terms, whose means are weighed by softmax(r / temperature)
             and softmax(-r / temperature): from above, and from below
    A rollout without verdict is in no mean; equal targets pull all log-ratios of the start towards one another.
    This is the method on log-ratios, which any policy has; its velocity form, slow sampling copies and the anchor on a guided
    reference are not part of a loss. Hold the policy with a `kl-k2` term.

    Metric error: mean of (beta (s - c_s) - (r - c_r))^2. Raises ValueError unless beta, bound and temperature are > 0.

    >>> from payoff.examples import four_answers
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [0.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> traj = four_answers()  # r is 0.6, 0.4, 0.5 and 0.5
    >>> crd(Evaluation(traj.logp["old"], {}), traj, advantage).terms[:, 0]
    tensor([0.0500, 0.0500, 0.0000, 0.0000])
    """
    if not min(beta, bound, temperature) > 0:
        raise ValueError(f"crd: beta, bound and temperature must be > 0, got {beta}, {bound} and {temperature}")
    if "old" not in traj.logp:
        raise ValueError('crd: needs traj.logp["old"], the log-probabilities of the policy that acted')
    advantage, known = _known(target, traj)
    score = log_ratio(evaluation.logp, traj.logp["old"], traj).sum(1)
    reward = advantage.clamp(-bound, bound) / (2 * bound) + 0.5
    if weights == "uniform":
        tilts = [torch.zeros_like(reward)]
    elif weights == "soft":
        tilts = [reward / temperature, -reward / temperature]
    else:
        raise ValueError(f'crd: weights must be "uniform" or "soft", got {weights!r}')
    errors = []
    for tilt in tilts:
        weight = (tilt.double() - statistics(tilt, traj.group, known).high).exp()
        middle = lambda x, weight=weight: _mean(x, weight, known, traj).to(x.dtype)
        # The mean of the log-ratios is a constant here, as published; with uniform weights it changes no gradient.
        errors.append((beta * (score - middle(score.detach())) - (reward - middle(reward))).square())
    error = torch.stack(errors).mean(0)
    mean = float(torch.where(known, error.detach(), 0).double().sum() / known.sum().clamp(min=1))
    return LossOutput(_spread(bound / beta * error, known, traj), {"error": mean})


def _known(target: Channel, traj: Trajectories) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """The number of every rollout, and whether it is known and about something that was acted."""
    value, valid = at_start(target, traj)
    return value, valid & traj.own.any(1)


def _mean(
    x: Float[Tensor, " N"], weight: Float[Tensor, " N"], known: Bool[Tensor, " N"], traj: Trajectories
) -> Float[Tensor, " N"]:
    """Weighted mean of each rollout's group over those that are known."""
    above = statistics(x.double() * weight, traj.group, known).mean
    below = statistics(weight, traj.group, known).mean
    return above / torch.where(below > 0, below, 1)


def _spread(number: Float[Tensor, " N"], counts: Bool[Tensor, " N"], traj: Trajectories) -> Float[Tensor, "N T"]:
    return torch.where(traj.own & counts[:, None], torch.where(counts, number, 0)[:, None], 0)
