"""Surrogates whose ratio is that of the whole sequence, per action: geometric means of the actions' ratios.

A product of a thousand ratios is 0 or infinity; its root is not. All of them give the sequence's number at each of its actions:
aggregate by `sequence-mean-token-mean`, which makes that one term a sequence.
"""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.losses.ratios import FARTHEST, acted, check_bounds, clipped, mean_over, means
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories


@method("gspo", kind="loss", paper="arXiv:2507.18071", needs=("old",))
def gspo(evaluation: Evaluation, traj: Trajectories, target: Channel, *, low: float = 3e-4, high: float = 4e-4) -> LossOutput:
    """PPO's clip on the geometric mean of a sequence's ratios (GSPO, eq. 5 and 7).

    term_t = -min(s A_t, clip(s, 1 - low, 1 + high) A_t), s = exp(mean_t (log pi(a_t) - log old(a_t))), over the actions whose
    advantage is known. A sequence is clipped whole or not at all. With the advantage of an outcome, the same at every action, the
    gradient of a sequence is -s A mean_t grad log pi(a_t): no action weighs more for having moved more. At s = 1 that is
    `policy_gradient`, under the aggregations that weigh the actions of a sequence alike, as all of ours do; advantages that
    differ along a sequence are averaged over it (`gspo-token` keeps them).

    low, high: the paper's. s moves little, so bounds that suit single actions would never act.
    Aggregate by `sequence-mean-token-mean`; by `sequence-mean-token-sum` it is LUSPO (arXiv:2602.05261), in which a sequence
    counts by its length. log s is cut at +-20.
    Metrics: clip_fraction (of the terms), ratio (mean of s), approx_kl (mean of s - 1 - log s).
    Raises ValueError without traj.logp["old"], or for bounds that do not allow 1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> one_twice_as_likely = Evaluation(traj.logp["old"] + torch.tensor([2.0, 1.0, 1.0]).log(), {})
    >>> gspo(one_twice_as_likely, traj, advantage, low=0.2, high=0.2).terms
    tensor([[-1.2000, -1.2000, -1.2000],
            [ 1.4142,  1.4142,  0.0000],
            [-1.2000, -1.2000, -1.2000],
            [ 1.0000,  0.0000,  0.0000]])
    """
    check_bounds("gspo", low, high)
    counts, advantage, _, far = acted("gspo", evaluation, traj, target)
    mean = mean_over(counts, far).clamp(-FARTHEST, FARTHEST)
    return _clipped(counts, advantage, mean.expand_as(far), low, high)


@method("gspo-token", kind="loss", paper="arXiv:2507.18071", needs=("old",))
def gspo_token(evaluation: Evaluation, traj: Trajectories, target: Channel, *, low: float = 3e-4, high: float = 4e-4) -> LossOutput:
    """`gspo` for advantages that differ along a sequence (GSPO-token, eq. 13): the same ratio, the gradient of each action its own.

    s_t = sg(s) pi(a_t) / sg(pi(a_t)), term_t = -min(s_t A_t, clip(s_t) A_t), sg a constant. In value s_t = s, so the terms are
    those of `gspo`; d term_t = -s A_t d log pi(a_t) where it is not clipped. With one advantage for the whole sequence the sum
    over it has the gradient of `gspo`; at s = 1 that is `policy_gradient` for any advantages and under any aggregation.

    Options, aggregation, metrics and errors as there. This is what verl's loss mode `gspo` computes.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0, 1.0, -1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> gspo_token(Evaluation(traj.logp["old"] + 0.1, {}), traj, advantage, high=1.0).terms[0]
    tensor([-1.1052, -1.1052,  1.1052])
    """
    check_bounds("gspo_token", low, high)
    counts, advantage, logp, far = acted("gspo_token", evaluation, traj, target)
    mean = mean_over(counts, far.detach()).clamp(-FARTHEST, FARTHEST)
    return _clipped(counts, advantage, mean + (logp - logp.detach()), low, high)


@method("gmpo", kind="loss", paper="arXiv:2507.20673", needs=("old",))
def gmpo(evaluation: Evaluation, traj: Trajectories, target: Channel, *, low: float = 0.4, high: float = 0.4) -> LossOutput:
    """The geometric mean of a sequence's ratios, each of them clipped (GMPO): term_t = -A_t exp(mean_u c_u).

    c_u = log rho_u, held below `high` where A_u > 0 and above -`low` where A_u < 0; 0 where A_u = 0. So an action that has gone
    past its bound, in the direction its advantage asks for, has no gradient and goes on counting in the mean; the others keep
    theirs, -A r / n d log pi(a_u) with r the clipped geometric mean. At rho = 1 the gradient is `policy_gradient`'s, under the
    same condition as `gspo`'s: advantages that differ along a sequence are averaged over it.

    low, high: in nats, so that the bounds of a ratio are exp(-low) and exp(high). The mean runs over the actions whose advantage
               is known, and is cut at +-20. Aggregate by `sequence-mean-token-mean`, the paper's.
    Metrics: clip_fraction (of the actions), ratio (mean of exp(mean_u c_u)), approx_kl (mean of rho - 1 - log rho).
    Raises ValueError without traj.logp["old"], and for a negative bound.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> one_far_likelier = Evaluation(traj.logp["old"] + torch.tensor([0.9, 0.0, 0.0]), {})
    >>> gmpo(one_far_likelier, traj, advantage).terms
    tensor([[-1.1426, -1.1426, -1.1426],
            [ 1.5683,  1.5683,  0.0000],
            [-1.1426, -1.1426, -1.1426],
            [ 1.2298,  0.0000,  0.0000]])
    """
    if low < 0 or high < 0:
        raise ValueError(f"gmpo: low and high must be at least 0, got low {low} and high {high}")
    counts, advantage, _, far = acted("gmpo", evaluation, traj, target)
    held = torch.where(advantage > 0, far.clamp(max=high), torch.where(advantage < 0, far.clamp(min=-low), 0))
    ratio = mean_over(counts, held).clamp(-FARTHEST, FARTHEST).exp()
    plain = far.detach().clamp(-FARTHEST, FARTHEST)
    clipped = (held != far) & (advantage != 0)
    metrics = {"clip_fraction": clipped, "ratio": ratio.expand_as(far), "approx_kl": plain.exp() - 1 - plain}
    return LossOutput(torch.where(counts, -advantage * ratio, 0), means(counts, metrics))


@method("off-policy-mask", kind="loss", paper="arXiv:2512.02556", needs=("old",))
def off_policy_mask(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    threshold: float = 0.5,
    low: float = 0.2,
    high: float = 0.2,
) -> LossOutput:
    """`ppo_clip` without the bad sequences that the policy has left behind (DeepSeek-V3.2, eq. 9).

    term_t = -m_t min(rho_t A_t, clip(rho_t, 1 - low, 1 + high) A_t), and m_t = 0 where A_t < 0 and the mean of log old - log pi
    over the actions of the sequence is above `threshold`, else 1. What is already unlikely teaches little by being made less
    likely, and its ratios are far off; good actions are kept however far. At rho = 1 nothing is left out and the gradient is
    `policy_gradient`'s.

    threshold: nats per action. The aggregation goes on counting what is left out; any of them fits.
    Metrics: those of `ppo_clip`, and masked_fraction. Raises ValueError as there, and for a threshold that is not positive.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> off_policy_mask(Evaluation(traj.logp["old"] - 1, {}), traj, advantage).terms
    tensor([[-0.3679, -0.3679, -0.3679],
            [ 0.0000,  0.0000,  0.0000],
            [-0.3679, -0.3679, -0.3679],
            [ 0.0000,  0.0000,  0.0000]])
    """
    check_bounds("off_policy_mask", low, high)
    if not threshold > 0:
        raise ValueError(f"off_policy_mask: threshold must be > 0, got {threshold}")
    counts, advantage, _, far = acted("off_policy_mask", evaluation, traj, target)
    left = (advantage < 0) & (mean_over(counts, -far.detach()) > threshold)
    output = _clipped(counts, advantage, far.clamp(-FARTHEST, FARTHEST), low, high)
    return LossOutput(torch.where(left, 0, output.terms), {**output.metrics, **means(counts, {"masked_fraction": left})})


def _clipped(counts: torch.Tensor, advantage: torch.Tensor, far: torch.Tensor, low: float, high: float) -> LossOutput:
    """The terms of PPO for log-ratios `far`, and their metrics."""
    found = clipped(counts, advantage, far, low, high)
    return LossOutput(found.terms, means(counts, {"clip_fraction": found.took, "approx_kl": found.kl, "ratio": found.ratio}))
