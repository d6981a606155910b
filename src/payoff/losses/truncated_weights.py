"""The policy gradient times a truncated importance weight: the bound acts on how much an action counts, never on whether.

The ratio is a constant here, so that every action keeps a gradient however far it has gone; PPO's clip silences it.
"""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.losses.ratios import FARTHEST, Level, acted, check_bounds, means
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories


@method("cispo", kind="loss", paper="arXiv:2506.13585", needs=("old",))
def cispo(evaluation: Evaluation, traj: Trajectories, target: Channel, *, low: float = 1.0, high: float = 4.0) -> LossOutput:
    """The policy gradient with the ratio as a clipped weight (CISPO, eq. 4-5).

    term_t = -sg(clip(rho_t, 1 - low, 1 + high)) A_t log pi(a_t), rho_t = pi(a_t) / old(a_t); sg: a constant. At rho = 1 the loss
    is `policy_gradient`. An action beyond a bound goes on being trained, with the bound as its weight, in whichever direction:
    rare actions on which an answer turns are not lost, and nothing stops the policy from going on.

    low:  1 leaves out the lower bound, as the paper does
    high: the paper leaves its value open; 4 to 8 were found to do equally well as bound of the weight (arXiv:2510.13786), which is
          1 + high
    Aggregate by `token-mean`. log rho is cut at +-20 nats.
    Metrics: clip_fraction (of the weights, those that a bound changed), ratio (mean of rho), approx_kl (mean of rho - 1 - log
    rho).
    Raises ValueError without traj.logp["old"], or for bounds that do not allow 1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> ten_times_as_likely = Evaluation(traj.logp["old"] + torch.tensor(10.0).log(), {})
    >>> cispo(ten_times_as_likely, traj, advantage).metrics["clip_fraction"]
    1.0
    """
    check_bounds("cispo", low, high)
    counts, advantage, logp, far = acted("cispo", evaluation, traj, target)
    far = far.detach().clamp(-FARTHEST, FARTHEST)
    ratio = far.exp()
    weight = ratio.clamp(1 - low, 1 + high)
    metrics = {"clip_fraction": weight != ratio, "approx_kl": ratio - 1 - far, "ratio": ratio}
    return LossOutput(torch.where(counts, -weight * advantage * logp, 0), means(counts, metrics))


@method("truncated-importance", kind="loss", needs=("old",))
def truncated_importance(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    bound: float = 2.0,
    least: float | None = None,
    level: Level = "action",
) -> LossOutput:
    """The policy gradient with truncated importance weights: term_t = -sg(w_t) A_t log pi(a_t), w_t = min(rho_t, bound).

    rho_t = pi(a_t) / old(a_t), where old is who *sampled*: an engine whose numbers differ from the trainer's, a policy of some
    updates ago, or both at once. At rho = 1 the loss is `policy_gradient`. Without a bound it is unbiased for level "sequence" and
    its variance grows without end; the bound trades the one for the other.

    bound: the largest weight. 2 and no `least` is what trainers call TIS
    least: None, or a weight below which, as above `bound`, an action is left out altogether instead of being held at it (IcePop,
           masked importance sampling)
    level: the ratio of each action (low variance, states as they were visited), or the product over its step or sequence
    Log-ratios are cut at +-20 nats. Any aggregation; what is left out goes on counting there.
    Metrics: truncated_fraction (of the weights, those above `bound` or below `least`), weight (mean of w), ratio (mean of rho).
    Raises ValueError without traj.logp["old"], for a bound below 1 and a `least` outside 0..1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.ones(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> drifted = Evaluation(traj.logp["old"] + torch.tensor([3.0, 1.0, 0.2]).log(), {})
    >>> truncated_importance(drifted, traj, advantage).metrics["truncated_fraction"] == 4 / 9
    True
    >>> truncated_importance(drifted, traj, advantage, least=0.5).terms[0]
    tensor([0., 1., 0.])
    """
    if not bound >= 1 or (least is not None and not 0 <= least <= 1):
        raise ValueError(f"truncated_importance: needs least <= 1 <= bound, got bound {bound} and least {least}")
    counts, advantage, logp, far = acted("truncated_importance", evaluation, traj, target, level=level)
    ratio = far.detach().clamp(-FARTHEST, FARTHEST).exp()
    outside, weight, kept = ratio > bound, ratio.clamp(max=bound), counts
    if least is not None:
        outside = outside | (ratio < least)
        weight, kept = torch.where(outside, 0, ratio), counts & ~outside
    metrics = {"truncated_fraction": outside, "weight": weight, "ratio": ratio}
    return LossOutput(torch.where(kept, -weight * advantage * logp, 0), means(counts, metrics))
