"""Policy losses: what an advantage asks of an action's log-probability.

Every loss here gives one term per action, exactly 0 (value and gradient) where the action is not the policy's own or its advantage
is unknown, and leaves the averaging to `aggregation`. Advantages are constants. Metrics are means over the terms that count.
"""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.losses.ratios import Level, acted, check_bounds, clipped, counted, means
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories


@method("policy-gradient", kind="loss")
def policy_gradient(evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
    """The plain policy gradient (REINFORCE): term_t = -A_t log pi(a_t).

    Right for actions sampled from the very policy that is updated; after the first step on a batch it no longer is.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [0.5], [2.0]]), torch.tensor([[True], [True], [False], [True]]))
    >>> policy_gradient(Evaluation(traj.logp["old"], {}), traj, advantage).terms
    tensor([[ 1.,  1.,  1.],
            [-1., -1.,  0.],
            [ 0.,  0.,  0.],
            [ 2.,  0.,  0.]])
    """
    counts, advantage = counted(traj, target)
    terms = torch.where(counts, -advantage * evaluation.logp, 0)
    return LossOutput(terms, means(counts, {"logp": evaluation.logp}))


@method("ppo-clip", kind="loss", paper="arXiv:1707.06347", needs=("old",))
def ppo_clip(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    low: float = 0.2,
    high: float = 0.2,
    level: Level = "action",
) -> LossOutput:
    """The clipped surrogate of PPO (eq. 7): term_t = -min(rho_t A_t, clip(rho_t, 1 - low, 1 + high) A_t).

    rho_t = pi(a_t) / pi_old(a_t). No gradient once the ratio has gone past a bound in the direction the advantage asks for; full
    gradient in the other direction, however far. At rho = 1 the gradient is that of `policy_gradient`. high > low is DAPO's
    clip-higher (0.2 and 0.28).

    level: the ratio of each action, or of its whole step or sequence (the product over their own actions) at every own action.
           A ratio of many actions strays far more, so it needs tighter bounds; aggregate "sequence" by the sequence mean.
    Log-ratios are cut at +-20 nats, with no gradient beyond.
    Metrics: clip_fraction (of the terms, those where a bound took effect), approx_kl (mean of rho - 1 - log rho, at least 0,
    an estimate of KL(old, new)), ratio (mean of rho, 1 in expectation).

    Raises ValueError without traj.logp["old"], or for bounds that do not allow 1: low in [0, 1], high >= 0.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> twice_as_likely = Evaluation(traj.logp["old"] + torch.tensor(2.0).log(), {})
    >>> ppo_clip(twice_as_likely, traj, advantage).terms
    tensor([[-1.2000, -1.2000, -1.2000],
            [ 2.0000,  2.0000,  0.0000],
            [-1.2000, -1.2000, -1.2000],
            [ 1.0000,  0.0000,  0.0000]])
    """
    check_bounds("ppo_clip", low, high)
    counts, advantage, _, far = acted("ppo_clip", evaluation, traj, target, level=level)
    found = clipped(counts, advantage, far, low, high)
    return LossOutput(found.terms, means(counts, {"clip_fraction": found.took, "approx_kl": found.kl, "ratio": found.ratio}))


@method("dual-clip", kind="loss", paper="arXiv:1912.09729", needs=("old",))
def dual_clip(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    low: float = 0.2,
    high: float = 0.2,
    bound: float = 3.0,
    level: Level = "action",
) -> LossOutput:
    """`ppo_clip` that also bounds the term of a bad action that became much more likely (dual-clip PPO, eq. 5).

    term_t = min(ppo_t, -bound A_t) where A_t < 0, else ppo_t: with a negative advantage nothing is gained, and no gradient is
    left, beyond rho = bound. bound -> infinity is `ppo_clip`.

    Metrics as there, and dual_clip_fraction, the share of terms where `bound` took effect.
    Raises ValueError as there, and for a bound of at most 1, which would stop the policy from where it starts.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> ten_times_as_likely = Evaluation(traj.logp["old"] + torch.tensor(10.0).log(), {})
    >>> dual_clip(ten_times_as_likely, traj, advantage).terms
    tensor([[-1.2000, -1.2000, -1.2000],
            [ 3.0000,  3.0000,  0.0000],
            [-1.2000, -1.2000, -1.2000],
            [ 1.5000,  0.0000,  0.0000]])
    """
    if bound <= 1:
        raise ValueError(f"dual_clip: bound must be > 1, got {bound}")
    check_bounds("dual_clip", low, high)
    counts, advantage, _, far = acted("dual_clip", evaluation, traj, target, level=level)
    found = clipped(counts, advantage, far, low, high, bound=bound)
    metrics = {
        "clip_fraction": found.took,
        "approx_kl": found.kl,
        "ratio": found.ratio,
        "dual_clip_fraction": found.bounded,
    }
    return LossOutput(found.terms, means(counts, metrics))
